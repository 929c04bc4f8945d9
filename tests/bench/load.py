"""What one replica sends to Redis while it is used as hard as it can be: commands a second, seen at the server."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from commontrip import (
    Applied,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    Listener,
    Outcome,
    Policy,
    State,
    SuccessRatio,
)
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.loops import answer
from tests.bench.peers import DownError, fail
from tests.bench.progress import say
from tests.bench.server import Watch
from tests.bench.worker import Link, workers
from tests.support.servers import Server

CALLS = "one breaker, as many calls as fit"
OPEN = "one open breaker, as many refusals as fit"
TRIPS = "one breaker, two trips a second"
MANY = "100 breakers, as many calls as fit"
_SECONDS = 6.0
_BATCH, _LOOK, _BEAT = "record", "MGET", "presence"


@dataclass(slots=True)
class Loaded:
    """What came in `seconds`, by command, and what the replica says that it did."""

    seconds: float
    seen: Counter[str]
    did: Counter[str]

    def rate(self, name: str) -> float:
        """Return commands a second; the one that falls on the edge of the time is not counted."""
        return max(0, self.seen[name] - 1) / self.seconds

    @property
    def others(self) -> int:
        """Commands that are neither batch nor look nor heartbeat."""
        return self.seen.total() - sum(self.seen[name] for name in (_BATCH, _LOOK, _BEAT))

    @property
    def allowed(self) -> int:
        """How many of those there may be: one for a first use, one for a transition, two for a probe."""
        return self.did["first uses"] + self.did["transitions"] + 2 * self.did["probes"]


@dataclass(slots=True)
class Load:
    """Every kind of load."""

    kinds: dict[str, Loaded] = field(default_factory=dict)

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        found = []
        for kind in (CALLS, OPEN, TRIPS):
            loaded = self.kinds[kind]
            found += [
                Bound(f"{kind}: batches a second", loaded.rate(_BATCH), 10),
                Bound(f"{kind}: looks a second", loaded.rate(_LOOK), 2),
                Bound(f"{kind}: commands for first uses, transitions and probes", loaded.others, loaded.allowed),
            ]
        return found


class _Diary(Listener):
    """Counts what a replica does."""

    def __init__(self) -> None:
        self.did: Counter[str] = Counter()

    def on_transition(self, applied: Applied) -> None:
        del applied
        self.did["transitions"] += 1

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:
        del breaker, state, outcome
        self.did["probes"] += probe


async def replica(link: Link, settings: dict[str, Any]) -> None:
    """Wait for `go`, work for so many seconds, and say what was done."""
    diary = _Diary()
    store = RedisStore.from_url(settings["url"], prefix=settings["prefix"])
    async with Breakers(store, listeners=[diary]) as breakers:
        await asyncio.sleep(0.5)  # the first look and heartbeat are over
        link.say(ready=True)
        await link.told()
        await _KINDS[settings["kind"]](breakers, time.monotonic() + settings["seconds"])
        diary.did["first uses"] = len(list(breakers))
        await breakers.flush()
        await asyncio.sleep(0.3)  # what the last transition still sends
        link.say(did=diary.did)
        await link.told()


async def _calls(breakers: Breakers, until: float, count: int = 1) -> None:
    guarded = [breakers.get(f"b{i}")(answer) for i in range(count)]
    for one in itertools.cycle(guarded):
        with contextlib.suppress(CircuitOpenError):  # a first use may come too late
            await one()
        await asyncio.sleep(0)
        if time.monotonic() > until:
            return


async def _many_calls(breakers: Breakers, until: float) -> None:
    await _calls(breakers, until, 100)


async def _refusals(breakers: Breakers, until: float) -> None:
    breaker = breakers.get("open", Policy(trip=ConsecutiveFailures(1), cooldown=Cooldown(initial=60)))
    while time.monotonic() < until:
        with contextlib.suppress(CircuitOpenError, DownError):
            await breaker.call(fail)
        await asyncio.sleep(0)


async def _trips(breakers: Breakers, until: float) -> None:
    cooldown = Cooldown(initial=0.2, maximum=0.2, factor=1, jitter=0)
    policy = Policy(trip=ConsecutiveFailures(5), recover=SuccessRatio(0.5, 2), cooldown=cooldown)
    breaker = breakers.get("tripping", policy)

    async def caller() -> None:
        while (now := time.monotonic()) < until:
            with contextlib.suppress(CircuitOpenError, DownError):
                await breaker.call(fail if now % 0.5 < 0.15 else answer)
            await asyncio.sleep(0.002)

    await asyncio.gather(*(caller() for _ in range(5)))


_KINDS: dict[str, Callable[[Breakers, float], Awaitable[None]]] = {
    CALLS: _calls,
    OPEN: _refusals,
    TRIPS: _trips,
    MANY: _many_calls,
}


async def measure(server: Server, seconds: float = _SECONDS) -> Load:
    """Run each kind in a process of its own, one after another."""
    load = Load()
    for kind in _KINDS:
        say(f"load: {kind}, {seconds:g} s")
        server.flush()
        settings = {"kind": kind, "seconds": seconds, "url": server.url, "prefix": "load"}
        async with workers("load:replica", [settings]) as (worker,):
            with Watch(server) as watch:
                mark = watch.mark()
                worker.tell("go")
                said = await worker.heard()
                seen = watch.since(mark)
        load.kinds[kind] = Loaded(seconds, seen, Counter(said["did"]))
    return load
