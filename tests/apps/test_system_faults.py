"""The real processes under traffic, while any of them is killed, frozen or comes back empty."""

import asyncio
import json
import random
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.system import Service, System
from tests.support.traffic import Answer, Traffic, comes

BREAKER = {
    "profile_breaker_minimum_calls": 10,
    "profile_breaker_window_seconds": 2,
    "profile_breaker_cooldown_seconds": 0.3,
    "profile_breaker_cooldown_maximum_seconds": 0.3,
    "profile_breaker_probes": 3,
    "profile_breaker_probe_lease_seconds": 0.5,
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system whose circuit opens and closes quickly; each test leaves it whole."""
    with System(tmp_path_factory.mktemp("logs"), **BREAKER) as started:
        yield started
        assert [line for service in started.services for line in service.faults()] == []


@pytest.fixture
async def traffic(system: System) -> AsyncIterator[Traffic]:
    """Traffic through the gateway, which flows when the test begins and when it ends."""
    async with Traffic(system.gateway.url) as flowing:
        await flowing.more(20, source="live")
        yield flowing
        await comes(lambda: set(states(system)) == {"CLOSED"}, "the circuit to be closed")
        await flowing.more(20, source="live")
    print(dict(flowing.sources))


def get(url: str) -> Any:
    """Fetch JSON."""
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own process
        return json.load(response)


def states(system: System) -> list[str]:
    """The circuit's state, as each replica sees it."""
    return [get(f"{profile.url}/breakers")[0]["state"] for profile in system.profiles]


def broken_off(answers: list[Answer]) -> list[Answer]:
    """Those that a killed process had begun to answer: the caller has a head, and no whole body."""
    return [answer for answer in answers if "without sending complete message body" in answer.error]


async def served_by(system: System, replica: Service) -> None:
    """Wait until a replica asks auth again."""
    before = get(f"{system.auth.url}/stats")["by_replica"].get(replica.name, 0)
    await comes(
        lambda: get(f"{system.auth.url}/stats")["by_replica"].get(replica.name, 0) > before, f"{replica.name} to serve"
    )


async def test_profile_killed(system: System, traffic: Traffic) -> None:
    """A replica may be killed at any moment: the others answer what it was asked, and it gets its share again."""
    for replica in system.profiles:
        await served_by(system, replica)
        await asyncio.to_thread(replica.kill)
        await traffic.more(40)
        await asyncio.to_thread(replica.start)
    await served_by(system, replica)
    assert traffic.improper == broken_off(traffic.answers)


async def test_all_but_one_killed(system: System, traffic: Traffic) -> None:
    """One replica is enough, when a request is not cut off twice: it is tried once more."""
    for replica in system.profiles[1:]:
        await asyncio.to_thread(replica.kill)
        await traffic.each(2)
    await traffic.more(60)
    for replica in system.profiles[1:]:
        await asyncio.to_thread(replica.start)
    assert traffic.improper == broken_off(traffic.answers)


async def test_auth_killed(system: System, traffic: Traffic) -> None:
    """Without auth the circuit opens at all replicas, and answers are stale; with auth it closes, and they are live."""
    await asyncio.to_thread(system.auth.kill)
    await traffic.more(30, source="stale")
    await comes(lambda: set(states(system)) <= {"OPEN", "HALF_OPEN"}, "the circuit to open")
    found = await traffic.more(60)
    assert {answer.source for answer in found} == {"stale", "unknown"}
    assert any(answer.body["auth"]["reason"] == "circuit_open" for answer in found)
    await asyncio.to_thread(system.auth.start)
    await comes(lambda: set(states(system)) == {"CLOSED"}, "the circuit to close")
    await traffic.more(30, source="live")
    assert traffic.improper == []


async def test_redis_killed(system: System, traffic: Traffic) -> None:
    """Redis may be gone, and come back empty: while auth is well, every answer is live."""
    await asyncio.to_thread(system.redis.kill)
    await traffic.more(100)
    await asyncio.to_thread(system.redis.start)
    await traffic.more(100)
    assert traffic.improper == []
    assert set(traffic.sources) == {"live"}


async def test_redis_frozen(system: System, traffic: Traffic) -> None:
    """Redis may take every command and answer none: while auth is well, every answer is live."""
    await asyncio.to_thread(system.redis.freeze)
    await traffic.each(20, within=10)
    system.redis.thaw()
    await traffic.more(100)
    assert traffic.improper == []
    assert set(traffic.sources) == {"live"}


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_redis_lost_while_auth_is_dead(fault: str, system: System, traffic: Traffic) -> None:
    """Nobody loses the stale answer when Redis goes too: each replica remembers, and the circuit closes in the end."""
    await asyncio.to_thread(system.auth.kill)
    await comes(lambda: set(states(system)) <= {"OPEN", "HALF_OPEN"}, "the circuit to open")
    await asyncio.to_thread(getattr(system.redis, fault))
    for answer in await traffic.each(20, within=10):
        assert answer.source == ("unknown" if answer.user in ("mallory", "nobody") else "stale")
    await asyncio.to_thread(system.redis.restart)
    await traffic.more(50)
    await asyncio.to_thread(system.auth.start)
    await traffic.more(50, source="live")
    assert traffic.improper == []


async def test_gateway_killed(system: System) -> None:
    """A killed gateway costs the requests that were on it, and nothing once it is back."""
    async with Traffic(system.gateway.url) as traffic:
        await traffic.more(20)
        await asyncio.to_thread(system.gateway.kill)
        await traffic.more(10)
        await asyncio.to_thread(system.gateway.start)
        await traffic.more(2 * 6)  # what was under way
        after = await traffic.more(60)
    assert [answer for answer in after if not answer.proper] == []
    assert {answer.status for answer in traffic.improper} == {0}


async def test_storm(system: System, traffic: Traffic) -> None:
    """Whatever is killed or frozen, in whatever order: while the gateway and a replica are there, all is answered."""
    storm = random.Random(4)
    for _ in range(6):
        await one_fault(storm, system)
        await traffic.more(storm.randrange(60))
    assert traffic.improper == broken_off(traffic.answers)


async def one_fault(storm: random.Random, system: System) -> None:
    """Let one process be gone for a moment."""
    victim = storm.choice([*system.profiles, system.auth, system.redis])
    if victim is system.redis and storm.random() < 0.5:
        await asyncio.to_thread(system.redis.freeze)
        await asyncio.sleep(storm.random())
        system.redis.thaw()
    elif isinstance(victim, Service) and storm.random() < 0.2:
        await asyncio.to_thread(victim.restart)
    else:
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(storm.random() / 2)
        await asyncio.to_thread(victim.start)
