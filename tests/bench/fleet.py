"""Two thousand replicas under load: what they send to one server, all together.

Every replica is a `Breakers` with a store and connections of its own; they share a few processes,
because two thousand interpreters do not fit. Where the system gives too few connections, fewer are
started, and the rest is in the presence key only: the real ones then believe in two thousand and keep
the pace that belongs to it, and their rate is multiplied. The same way the fleet is then said to have
10,000 replicas.
"""

import asyncio
import contextlib
import os
import resource
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from commontrip import (
    Applied,
    Breakers,
    CircuitOpenError,
    Cooldown,
    FailureRate,
    Listener,
    Policy,
    Report,
    State,
    SuccessRatio,
)
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.loops import answer
from tests.bench.peers import DownError
from tests.bench.progress import say
from tests.bench.server import SLOW, Seen, Slowlog, Watch
from tests.bench.worker import Link, Worker, workers
from tests.support.servers import Server
from tests.support.waiting import eventually

REPLICAS, GREAT = 2_000, 10_000
MOST = 5_000
"""Commands a second that all replicas together may send."""
_PROCESSES = 3
_CONNECTIONS = 2  # of a replica: one listens, one asks
_BEAT = 12.0  # seconds in which every replica has counted the fleet again
_SECONDS = 10.0
_PREFIX, _NAME = "fleet", "auth"
_POLICY = Policy(
    trip=FailureRate(0.5, minimum_calls=20),
    recover=SuccessRatio(0.6, 5),
    cooldown=Cooldown(initial=2, factor=1, maximum=2, jitter=0),
    window=5,
)
_TRIPS = 3
_HANG = 2.0  # seconds that a probe takes in the last trip
_SLICES = 20  # parts of a tenth of a second over which the calls of one process are spread


@dataclass(slots=True)
class Measured:
    """A fleet under load for some seconds."""

    replicas: int
    """As they believe."""
    real: int
    """As there are."""
    seen: Counter[str]
    peak: int
    """Commands of the real ones in the worst second."""
    cpu: float
    """Share of a core that the server took, while nobody looked at the commands."""

    @property
    def rates(self) -> dict[str, float]:
        """Commands a second of the whole fleet, by name."""
        return {name: count / _SECONDS * self.replicas / self.real for name, count in self.seen.items()}

    @property
    def rate(self) -> float:
        """Commands a second of the whole fleet."""
        return sum(self.rates.values())

    @property
    def worst(self) -> float:
        """The same in the worst second."""
        return self.peak * self.replicas / self.real


@dataclass(slots=True)
class Tripped:
    """What the trips of the whole fleet cost."""

    commits: list[float] = field(default_factory=list)
    """Microseconds of the transition's script, which tells every subscriber; one for each trip."""
    seen: Counter[str] = field(default_factory=Counter)
    """Commands from the first trip's first failure until the circuit is closed again."""
    probing: Counter[str] = field(default_factory=Counter)
    """Commands while the last round of probes lasted, whose probes hung."""
    seconds: float = 0.0
    """How long that was."""
    cpu: float = 0.0
    """Share of a core that the server took meanwhile."""
    lags: list[float] = field(default_factory=list)
    """Seconds from the commit to its being applied, by trip and replica."""
    local: int = 0
    """Replicas that took the store for gone."""

    @property
    def probing_rate(self) -> float:
        """Commands a second in that round."""
        return self.probing.total() / self.seconds


@dataclass(slots=True)
class Fleet:
    """What the fleet did."""

    usual: Measured
    great: Measured
    trip: Tripped
    start_peak: int
    """Commands in the worst second, from the first one's start until each has counted the whole fleet."""

    def bounds(self) -> list[Bound]:
        """Hold it against what was promised."""
        real = self.usual.real
        return [
            Bound(f"{REPLICAS:,} replicas under load, commands in the worst second", self.usual.worst, MOST),
            Bound(f"{GREAT:,} replicas under load, commands a second ({real:,} real)", self.great.rate, MOST),
            Bound(f"{real:,} real replicas: any that took the store for gone", self.trip.local, 0),
            Bound(f"{real:,} subscribers: the transition at the server", min(self.trip.commits), SLOW, "µs"),
        ]


class _Diary(Listener):
    """What all replicas of one process have to tell."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.local = 0

    def on_transition(self, applied: Applied) -> None:
        if applied.transition.state == State.OPEN and not applied.local:
            self.lags.append(applied.lag)

    def on_report(self, report: Report) -> None:
        self.local += report.kind == "local_mode"


def _store(url: str) -> RedisStore:
    settings: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": _CONNECTIONS,
        "timeout": None,
    }
    return RedisStore(Redis(connection_pool=BlockingConnectionPool.from_url(url, **settings)), prefix=_PREFIX)


async def replicas(link: Link, settings: dict[str, Any]) -> None:
    """Start many, call under each ten times a second, and do as told: fail, answer, hang, report."""
    _more_files()
    diary, mood = _Diary(), ["answer"]

    async def dependency() -> int:
        if mood[-1] == "fail":
            raise DownError
        if mood[-1] == "hang":
            await asyncio.sleep(_HANG)
        return await answer()

    async with AsyncExitStack() as stack:
        stores = [_store(settings["url"]) for _ in range(settings["count"])]
        fleet = [await stack.enter_async_context(Breakers(store, listeners=[diary])) for store in stores]
        calls = [breakers.get(_NAME, _POLICY)(dependency) for breakers in fleet]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_call_all(calls))
            link.say(ready=True)
            while (word := await link.told()) != "end":
                if word == "report":
                    link.say(lags=diary.lags, local=diary.local)
                else:
                    mood.append(word)
            os._exit(0)  # two thousand farewells would only take time


def _more_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _call_all(calls: list[Any]) -> None:
    pending: set[asyncio.Task[None]] = set()
    while True:
        started = time.monotonic()
        for part in range(_SLICES):
            for call in calls[part::_SLICES]:
                task = asyncio.create_task(_one(call))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.sleep(max(0.001, started + (part + 1) * 0.1 / _SLICES - time.monotonic()))


async def _one(call: Any) -> None:
    with contextlib.suppress(CircuitOpenError, DownError):
        await call()


async def measure(server: Server) -> Fleet:
    """Start them, watch them, trip them, and say that there are more."""
    server.flush()
    real = _affordable(server)
    say(f"fleet: starting {real:,} replicas in {_PROCESSES} processes")
    parts = [real // _PROCESSES + (i < real % _PROCESSES) for i in range(_PROCESSES)]
    _ghosts(server, REPLICAS - real)
    async with AsyncExitStack() as stack:
        with Watch(server) as watch:
            settings = [{"url": server.url, "count": part} for part in parts]
            fleet = await stack.enter_async_context(workers("fleet:replicas", settings))
            await asyncio.sleep(_BEAT)
            watch.mark()
            start_peak = _peak(watch.seen)
        usual = await _watched(server, REPLICAS, real)
        trip = await _trips(server, fleet)
        _ghosts(server, GREAT - REPLICAS)
        await asyncio.sleep(_BEAT)
        great = await _watched(server, GREAT, real)
        await _report(fleet, trip)
    return Fleet(usual, great, trip, start_peak)


def _affordable(server: Server) -> int:
    said = server.cli("CONFIG", "GET", "maxclients")
    assert isinstance(said, list)
    granted = int(str(said[1])) - 100
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    mine = granted if hard == resource.RLIM_INFINITY else _PROCESSES * (hard - 100)
    return min(REPLICAS, granted // _CONNECTIONS, mine // _CONNECTIONS)


def _ghosts(server: Server, count: int) -> None:
    """Say that there are so many more than there are."""
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        until = (time.time() + 3600) * 1000
        for start in range(0, count, 1000):
            some = {f"ghost-{count}-{i}": until for i in range(start, min(count, start + 1000))}
            client.zadd(f"{_PREFIX}:replicas", some)


async def _watched(server: Server, believed: int, real: int) -> Measured:
    say(f"fleet: {believed:,} replicas under load, {real:,} of them real")
    cpu = await _cpu(server)
    with Watch(server) as watch:
        await asyncio.sleep(_SECONDS)
        watch.mark()
    seen = Counter(one.name for one in watch.seen)
    return Measured(believed, real, seen, _peak(watch.seen), cpu)


async def _cpu(server: Server) -> float:
    before, started = _used(server), time.monotonic()
    await asyncio.sleep(_SECONDS / 2)
    return (_used(server) - before) / (time.monotonic() - started)


def _used(server: Server) -> float:
    used = server.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _peak(seen: list[Seen]) -> int:
    return max(Counter(int(one.at) for one in seen).values(), default=0)


async def _trips(server: Server, fleet: list[Worker]) -> Tripped:
    found = Tripped()
    for number in range(_TRIPS):
        say(f"fleet: trip {number + 1} of {_TRIPS}")
        with Slowlog(server, 100) as log, Watch(server) as watch:
            await _trip(server, fleet, watch, found, last=number == _TRIPS - 1)
        found.commits.append(max(log.times.get("transition", []), default=float("nan")))
        found.seen = found.seen or Counter(one.name for one in watch.seen)
    return found


async def _trip(server: Server, fleet: list[Worker], watch: Watch, found: Tripped, *, last: bool) -> None:
    _tell(fleet, "fail")
    await _see(server, State.OPEN)
    _tell(fleet, "hang" if last else "answer")
    await _see(server, State.HALF_OPEN, State.CLOSED)
    mark, started, used = watch.mark(), time.monotonic(), _used(server)
    await _see(server, State.CLOSED)
    found.probing, found.seconds = watch.since(mark), time.monotonic() - started
    found.cpu = (_used(server) - used) / found.seconds
    _tell(fleet, "answer")
    await asyncio.sleep(1)


async def _see(server: Server, *states: State) -> None:
    key = f"{_PREFIX}:{_NAME}:state"
    await eventually(lambda: server.cli("GET", key) in states, f"the fleet to be {states[0]}", within=30)


def _tell(fleet: list[Worker], word: str) -> None:
    for worker in fleet:
        worker.tell(word)


async def _report(fleet: list[Worker], trip: Tripped) -> None:
    _tell(fleet, "report")
    for worker in fleet:
        said = await worker.heard()
        trip.lags += said["lags"]
        trip.local += said["local"]
