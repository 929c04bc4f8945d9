"""Fifty processes and a trip: how long after the commit calls still start at the dependency.

The dependency is the witness. It notes when each call arrives, by the clock of the machine, which is
also the server's. The commit is the time in the transition's record. The dependency fails for seven
replicas of ten; the other three see nothing but success, and stop only because the fleet says so.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from commontrip import Applied, Breakers, CircuitOpenError, Cooldown, FailureRate, Listener, Policy, State, SuccessRatio
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.peers import DownError
from tests.bench.progress import say
from tests.bench.server import quantile
from tests.bench.worker import Link, workers
from tests.support.servers import Server
from tests.support.waiting import eventually

REPLICAS, TRIPS = 50, 20
LATE = 0.050
"""Seconds after the commit from which no call may start at the dependency."""
_PAUSE = 0.02  # seconds between two calls of one replica
_HEALTHY = 0.3  # seconds before the dependency fails again
_POLICY = Policy(
    trip=FailureRate(0.5, minimum_calls=20),
    recover=SuccessRatio(0.6, 5),
    cooldown=Cooldown(initial=0.4, factor=1, maximum=0.4, jitter=0),
    window=2,
)
_FAILING = 7  # replicas of ten for which the dependency fails
_NAME, _PREFIX = "auth", "trip"


@dataclass(slots=True)
class Trips:
    """Seconds."""

    last_call: list[float] = field(default_factory=list)
    """From each commit to the last call that started at the dependency."""
    lags: list[float] = field(default_factory=list)
    """From the commit to its being applied, for each trip and replica, by the replicas' own account."""
    calls: int = 0
    expected: int = 0
    """How many lags there should be."""

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        what = f"{REPLICAS} processes, last call at the dependency after the commit, p99 of {TRIPS} trips"
        missing = self.expected - len(self.lags)
        return [
            Bound(what, 1000 * quantile(self.last_call, 0.99), 1000 * LATE, "ms"),
            Bound(f"{REPLICAS} processes, {TRIPS} trips: replicas that did not learn of one", missing, 0),
        ]


class _Dependency(asyncio.Protocol):
    """Answers each line with `y` or `n`, and notes when it came."""

    def __init__(self, witness: "Witness") -> None:
        self._witness = witness

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._witness.connections += 1
        self._fails = self._witness.connections % 10 < _FAILING

    def data_received(self, data: bytes) -> None:
        calls = data.count(b"\n")
        self._witness.arrivals += [time.time()] * calls
        self._transport.write((b"n\n" if self._fails and not self._witness.healthy else b"y\n") * calls)


@dataclass(slots=True)
class Witness:
    """What the dependency has seen, and whether it works."""

    healthy: bool = True
    connections: int = 0
    arrivals: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Listen, and give the port."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Dependency(self), "127.0.0.1", 0)
        yield listener.sockets[0].getsockname()[1]
        listener.close()

    def last(self, after: float, before: float) -> float:
        """Return how long after `after` the last call came, of those before `before`; 0 if none did."""
        return max((at - after for at in self.arrivals if after < at < before), default=0.0)


class _Lags(Listener):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_transition(self, applied: Applied) -> None:
        if applied.transition.state == State.OPEN and not applied.local:
            self.seconds.append(applied.lag)


async def replica(link: Link, settings: dict[str, Any]) -> None:
    """Call the dependency under the breaker until told to report."""
    lags = _Lags()
    reader, writer = await asyncio.open_connection("127.0.0.1", settings["dependency"])
    store = RedisStore.from_url(settings["url"], prefix=_PREFIX)
    async with Breakers(store, listeners=[lags]) as breakers:
        call = breakers.get(_NAME, _POLICY)(guarded_call(reader, writer))
        calling = asyncio.create_task(_call_forever(call))
        link.say(ready=True)
        await link.told()
        link.say(lags=lags.seconds)
        await link.told()
        calling.cancel()


def guarded_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
    """Return the guarded call."""

    async def call() -> None:
        writer.write(b"\n")
        if await reader.readline() != b"y\n":
            raise DownError

    return call


async def _call_forever(call: Any) -> None:
    while True:
        with contextlib.suppress(CircuitOpenError, DownError):
            await call()
        await asyncio.sleep(_PAUSE)


async def measure(server: Server, replicas: int = REPLICAS, trips: int = TRIPS) -> Trips:
    """Trip them again and again."""
    server.flush()
    witness, found = Witness(), Trips(expected=replicas * trips)
    say(f"trip: starting {replicas} processes")
    async with witness.serving() as port:
        settings = [{"url": server.url, "dependency": port}] * replicas
        async with workers("trip:replica", settings) as fleet:
            for number in range(trips):
                if number % 5 == 0:
                    say(f"trip: {number + 1} of {trips}")
                await _trip(server, witness)
            for worker in fleet:
                worker.tell("report")
            found.lags = [lag for worker in fleet for lag in (await worker.heard())["lags"]]
            found.last_call = _last_calls(server, witness)
    found.calls = len(witness.arrivals)
    return found


async def _trip(server: Server, witness: Witness) -> None:
    await asyncio.sleep(_HEALTHY)
    witness.healthy = False
    await _see(server, State.OPEN)
    witness.healthy = True
    await _see(server, State.CLOSED)


async def _see(server: Server, state: State) -> None:
    key = f"{_PREFIX}:{_NAME}:state"
    await eventually(lambda: server.cli("GET", key) == state, f"the fleet to be {state}", within=20)


def _last_calls(server: Server, witness: Witness) -> list[float]:
    with contextlib.closing(redis.Redis.from_url(server.url, decode_responses=True)) as client:
        stream: Any = client.xrange(f"{_PREFIX}:{_NAME}:transitions")
        entries = [entry for _, entry in stream]
    since = [int(entry["since"]) / 1000 for entry in entries] + [time.time()]
    return [witness.last(since[i], since[i + 1]) for i, entry in enumerate(entries) if entry["state"] == State.OPEN]
