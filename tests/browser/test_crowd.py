"""Five hundred people who watch one replica: what they cost its requests, its processor, and Redis."""

import asyncio
import os
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.browser.conftest import Services
from tests.browser.running import Service
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)

CROWD = 500


class Client:
    """One connection to the console's stream."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.changes = 0
        self.open = False
        """Whether it has heard that the circuit is open."""

    async def __aenter__(self) -> Self:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._service.port)
        self._writer.write(b"GET /console/events HTTP/1.1\r\nHost: site\r\n\r\n")
        await reader.readuntil(b"event: picture")
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.changes += line.startswith(b"event: change")
            self.open |= b'"state": "OPEN"' in line

    async def __aexit__(self, *raised: object) -> None:
        self._reading.cancel()
        self._writer.close()


async def latencies(service: Service, seconds: float) -> list[float]:
    """Return how long requests take (ms), one after another for so many seconds."""
    found = []
    async with httpx.AsyncClient(trust_env=False) as client:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            assert (await client.get(f"{service.url}/ping")).is_success
            found.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.005)
    return sorted(found)


def late(found: list[float]) -> float:
    """Return what one request in a hundred takes at least."""
    return found[int(0.99 * len(found))]


def said(found: list[float]) -> str:
    """Return latencies in words."""
    return f"median {statistics.median(found):.2f} ms, p99 {late(found):.2f} ms"


def processor(service: Service) -> float:
    """Return the seconds of processor time that a service has used."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asked(server: Server) -> int:
    """Return how many commands the server has had."""
    return int(server.info("stats")["total_commands_processed"])


async def test_five_hundred_watch_and_nobody_waits(services: Services, store: Server) -> None:
    """With 500 open streams requests are as quick as with none, all hear of a trip, and Redis hears of one console."""
    service = services()
    alone = await latencies(service, 2)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Client(service))
        await eventually(lambda: first.changes >= 6, "the first epoch to be old")
        before = (asked(store), first.changes)
        await eventually(lambda: first.changes >= before[1] + 3, "three looks")
        for_one = asked(store) - before[0]
        crowd = [await stack.enter_async_context(Client(service)) for _ in range(CROWD - 1)]
        await eventually(lambda: all(one.changes for one in crowd), "a first change for all")
        start, used, commands = first.changes, processor(service), asked(store)
        beside = await latencies(service, 3)
        took, looks, for_all = processor(service) - used, first.changes - start, asked(store) - commands
        await asyncio.to_thread(service.call, "fail", 60)
        tripped = time.perf_counter()
        await eventually(lambda: first.open and all(one.open for one in crowd), "all to hear of the trip")
        heard = time.perf_counter() - tripped
    each = took / max(1, looks) / CROWD
    print(
        f"requests alone: {said(alone)}; beside {CROWD} streams: {said(beside)}; "
        f"at most {1e6 * each:.0f} us of processor per client and event (the requests are in it); "
        f"all {CROWD} had heard of a trip after {1000 * heard:.0f} ms; "
        f"Redis had {for_one} commands in 3 looks for one client, {for_all} in {looks} for {CROWD}"
    )
    assert statistics.median(beside) < 2 * statistics.median(alone)
    assert late(beside) < late(alone) + 60
    assert each < 0.0005
    assert for_all / looks <= for_one / 3 + 2
    assert looks <= 5
