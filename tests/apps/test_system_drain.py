"""The real processes ended by SIGTERM under traffic: what runs is finished, what comes is served elsewhere."""

import asyncio
import contextlib
import http.client
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.system import Service, System
from tests.support.traffic import Traffic, comes
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system; each test leaves it whole. On a busy machine a replica's first question to Redis may take long."""
    with System(tmp_path_factory.mktemp("logs"), profile_breaker_store_budget_seconds=1) as started:
        yield started
        assert [line for service in started.services for line in service.faults()] == []


@pytest.fixture
async def slow_auth(system: System) -> AsyncIterator[None]:
    """Let auth take a second."""
    async with httpx.AsyncClient(base_url=system.auth.url, trust_env=False) as client:
        order = {"kind": "slow", "latency_seconds": 1.0, "expires_seconds": 60}
        assert (await client.put("/faults", json=order)).status_code == 200
        yield
        assert (await client.delete("/faults")).status_code == 200


class Watcher:
    """A client of the event stream through the gateway, which comes again whenever the stream ends."""

    def __init__(self, system: System) -> None:
        self.begun = self.ended = 0
        self._url = f"{system.gateway.url}/breakers/events"
        self._client = httpx.AsyncClient(timeout=20, trust_env=False)

    async def watch(self) -> None:
        """Watch until cancelled; an end that is out of order raises."""
        async with self._client:
            while True:
                async with self._client.stream("GET", self._url) as response:
                    assert response.status_code == httpx.codes.OK  # else an EventSource gives up
                    await self._read(response)
                await asyncio.sleep(0.1)

    async def _read(self, response: httpx.Response) -> None:
        lines = response.aiter_lines()
        first = await anext(lines)
        if first == "retry: 1000":  # of a replica that drains: come again, elsewhere
            return
        assert first == "event: snapshot"
        self.begun += 1
        async for _ in lines:
            pass
        self.ended += 1


@contextlib.asynccontextmanager
async def watching(system: System, count: int) -> AsyncIterator[list[Watcher]]:
    """Open so many event streams, on whichever replicas."""
    watchers = [Watcher(system) for _ in range(count)]
    tasks = [asyncio.create_task(watcher.watch()) for watcher in watchers]
    await eventually(lambda: all(watcher.begun for watcher in watchers), "the event streams to begin")
    yield watchers
    for task in tasks:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} == {asyncio.CancelledError}, found


async def test_rolling_restart(system: System) -> None:
    """One replica after the other is restarted: no request fails, event streams end in order, and come again."""
    async with Traffic(system.gateway.url) as traffic, watching(system, 3) as watchers:
        await traffic.more(20)
        for replica in system.profiles:
            assert await asyncio.to_thread(replica.restart) == 0
            await traffic.more(20)
        await eventually(lambda: all(one.begun == one.ended + 1 for one in watchers), "all event streams to be open")
    assert traffic.improper == []
    assert [answer for answer in traffic.answers if answer.source != "live"] == []
    assert all(watcher.ended >= 1 for watcher in watchers)
    print(dict(traffic.sources), [watcher.ended for watcher in watchers])


@pytest.mark.usefixtures("slow_auth")
@pytest.mark.parametrize("name", ["gateway", "profile-2", "auth"])
async def test_requests_under_way_are_finished(name: str, system: System) -> None:
    """A process that is asked to end finishes what it has begun, and ends with status 0."""
    [service] = [one for one in system.services if one.name == name]
    before = arrived(system)
    async with httpx.AsyncClient(base_url=system.gateway.url, trust_env=False) as client:
        under_way = [asyncio.create_task(client.get("/profile/ada")) for _ in range(6)]
        await comes(lambda: arrived(system) >= before + 6, "the requests to be under way")
        status = await asyncio.to_thread(service.stop)
        found = await asyncio.gather(*under_way, return_exceptions=True)
    await asyncio.to_thread(service.start)
    assert status == 0
    assert [one for one in found if not isinstance(one, httpx.Response)] == []
    assert {(one.status_code, one.json()["auth"]["source"]) for one in found} == {(200, "live")}


def arrived(system: System) -> int:
    """How many requests auth has got since it was started."""
    with urllib.request.urlopen(f"{system.auth.url}/stats", timeout=5) as response:  # noqa: S310 - our own process
        return int(json.load(response)["received"])


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory, system: System) -> Iterator[Service]:
    """A replica outside the fleet, with time to look at its end."""
    settings = {**system.profiles[0].settings, "drain_seconds": 0.5, "profile_replica": "alone"}
    own = {key.lower(): value for key, value in settings.items() if not key.endswith("PORT")}
    with Service("profile", tmp_path_factory.mktemp("logs"), own) as started:
        yield started


@pytest.mark.usefixtures("slow_auth")
async def test_order_of_the_end(alone: Service) -> None:
    """Ready no longer and no event streams, then no new connections, then what runs ends, and figures till then."""
    ready = [200]
    async with httpx.AsyncClient(base_url=alone.url, trust_env=False) as client:
        async with client.stream("GET", "/breakers/events", timeout=5) as stream:
            events = stream.aiter_lines()
            assert await anext(events) == "event: snapshot"
            alone.send(signal.SIGTERM)
            assert "event: transition" not in [event async for event in events]
        while ready[-1] == 200:
            ready.append(await asyncio.to_thread(alone.status, "/readyz"))
        last = asyncio.create_task(client.get("/profile/ada"))  # the port is still open
        while ready[-1]:
            ready.append(await asyncio.to_thread(alone.status, "/readyz"))
        assert await asyncio.to_thread(figures, alone) == 200
        assert not last.done()
        assert (await last).json()["auth"]["source"] == "live"
    await comes(lambda: alone.exit_status is not None, "the process to end")
    assert list(dict.fromkeys(ready)) == [200, 503, 0]
    assert alone.exit_status == 0
    assert alone.logged()[-1]["message"] == "ended"


def figures(service: Service) -> int:
    """Return the status of `/metrics`, 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", service.metrics_port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/metrics")
        return connection.getresponse().status
    return 0
