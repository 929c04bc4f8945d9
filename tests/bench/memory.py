"""What 10,000 breakers take in a fresh process: once by what Python allocated, once by what the system gave it."""

import asyncio
import contextlib
import gc
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commontrip import Breaker, Breakers, CircuitOpenError, State
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.loops import answer
from tests.bench.progress import say
from tests.bench.worker import Link, workers
from tests.support.servers import Server

BREAKERS = 10_000
MEGABYTE = 1_000_000
_STATM = Path("/proc/self/statm")
_WAYS = ["allocated", "resident"] if _STATM.exists() else ["allocated"]


@dataclass(slots=True)
class Memory:
    """Bytes, by how they were measured and whether the breakers had been used."""

    taken: dict[tuple[str, str], float] = field(default_factory=dict)

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        most = max(self.taken.values())
        return [Bound(f"{BREAKERS:,} used breakers in one process", most / MEGABYTE, 30, "MB")]


async def replica(link: Link, settings: dict[str, Any]) -> None:
    """Make them, then use them, and say what each has taken."""
    if settings["how"] == "allocated":
        tracemalloc.start()
    store = RedisStore.from_url(settings["url"], prefix=f"memory-{settings['how']}")
    async with Breakers(store) as breakers:
        await breakers.get("first").read()
        link.say(ready=True)
        before = _taken()
        kept = [breakers.get(f"host-{i}.example.org") for i in range(BREAKERS)]
        made = _taken()
        for start in range(0, BREAKERS, 100):
            await asyncio.gather(*(_use(breaker) for breaker in kept[start : start + 100]))
        await breakers.flush()
        link.say(made=made - before, used=_taken() - before)
        await link.told()


async def _use(breaker: Breaker) -> None:
    while breaker.snapshot.transition is None or breaker.state != State.CLOSED:
        with contextlib.suppress(CircuitOpenError):
            await breaker.call(answer)


def _taken() -> int:
    gc.collect()
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0]
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(server: Server) -> Memory:
    """Measure in a process each; the system's account only where it is kept (Linux)."""
    say(f"memory: {BREAKERS:,} breakers in one process")
    server.flush()
    settings = [{"how": how, "url": server.url} for how in _WAYS]
    found = Memory()
    async with workers("memory:replica", settings) as both:
        for how, worker in zip(_WAYS, both, strict=True):
            said = await worker.heard()
            found.taken |= {(how, when): said[when] for when in ("made", "used")}
    return found
