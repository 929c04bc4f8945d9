"""How long each script, and each look, keeps the server busy: microseconds, by the server's own slow log.

Each operation is done many times in each of several rounds. A single slow one may be the machine that
gave the server no time; what is slow in every round is the command.
"""

import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from commontrip import State, SuccessRatio
from commontrip._counts import Run
from commontrip._recover import grid
from commontrip._store import Ask, Batch, Change, Lease, Settlement
from commontrip._transition import token
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.progress import say
from tests.bench.server import SLOW, Slowlog, quantile
from tests.support.servers import Server

BUCKETS, REPLICAS = 10, 500
RECORD = f"record, {BUCKETS} full buckets, {REPLICAS} replicas seen"
_PROBES = 50
_WINDOW = 1.0  # seconds: its ten buckets are full after one
_TIMES, _ROUNDS = 200, 5
_THRESHOLD = 10  # microseconds; below, the server would log what scripts call

Operation = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Timed:
    """Microseconds that an operation took at the server, round by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def all(self) -> list[float]:
        """Every time."""
        return [time for times in self.rounds for time in times]

    @property
    def median(self) -> float:
        """The middle; what is quicker than the slow log looks at counts as the threshold."""
        return quantile(self.all, 0.5) if self.all else _THRESHOLD

    @property
    def p99(self) -> float:
        """99 of 100 are not slower."""
        return quantile(self.all, 0.99) if self.all else _THRESHOLD

    @property
    def most(self) -> float:
        """The slowest in the quickest round: slow every time, not once."""
        return min(max(times, default=_THRESHOLD) for times in self.rounds)


@dataclass(slots=True)
class Scripts:
    """How long each operation takes at the server."""

    timed: dict[str, Timed] = field(default_factory=dict)

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        slowest = max(self.timed, key=lambda name: self.timed[name].most)
        return [
            Bound(f"{RECORD}: median at the server", self.timed[RECORD].median, 50, "µs"),
            Bound(f"the slowest command at the server ({slowest})", self.timed[slowest].most, SLOW, "µs"),
        ]


class _Fleet:
    """Breakers, replicas, and what they ask of the store."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.names = [f"b{i}" for i in range(500)]
        self._numbers = itertools.count(1)
        self._replicas = itertools.cycle(f"profile-6d4cf56db6-{i:05}" for i in range(REPLICAS))
        self._states = itertools.cycle((State.OPEN, State.CLOSED))
        self._epochs: dict[str, str] = {}
        self._leases: list[str] = []

    async def prepare(self) -> None:
        """Make the breakers, a full history of the last one, and the presence of all replicas."""
        await self.read(self.names)
        for _ in range(100):
            await self.transition()
        for once in (self.presence, self.learned):
            for _ in range(REPLICAS):
                await once()

    async def read(self, names: list[str]) -> None:
        """Read, or make."""
        asks = [Ask(name=n, seed=True, token=token(), replica="r", window=_WINDOW, cooldown=30.0) for n in names]
        for name, view in zip(names, await self._store.read(asks), strict=True):
            assert view.transition
            self._epochs[name] = str(view.transition.epoch)

    async def record(self, names: list[str]) -> None:
        """Count a batch of one replica for each."""
        replica, number = next(self._replicas), next(self._numbers)
        for view in await self._store.record([self._batch(name, replica, number) for name in names]):
            assert view.status == "ok", view

    def _batch(self, name: str, replica: str, number: int) -> Batch:
        return Batch(
            name=name,
            epoch=self._epochs[name],
            number=number,
            replica=replica,
            run=Run(calls=100, failures=3, slow=1, longest=2, last=1, unbroken=False),
            window=_WINDOW,
            show_run=False,
        )

    async def transition(self, to: State | None = None) -> None:
        """Open or close the last breaker; the winner's case."""
        name = self.names[-1]
        view = await self._store.transition(self._change(name, self._epochs[name], to or next(self._states)))
        assert view.status == "won", view
        assert view.transition
        self._epochs[name] = str(view.transition.epoch)

    async def lost(self) -> None:
        """Try the same with an epoch that is over; the case of all others."""
        view = await self._store.transition(self._change(self.names[-1], "0.0.0", State.OPEN))
        assert view.status == "lost", view

    def _change(self, name: str, expected: str, to: State) -> Change:
        cooldown = 0.0 if to == State.CLOSED else 30.0
        return Change(
            name=name,
            expected=expected,
            to=to,
            token=token(),
            reason="tripped",
            replica=next(self._replicas),
            remaining=cooldown,
            cooldown=cooldown,
            opens=1,
            failures=60,
            calls=100,
            error="ConnectError",
            cause="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )

    async def lease(self) -> None:
        """Ask for a place; granted until all are taken."""
        self._leases.append(token())
        view = await self._store.lease(self._lease(self._leases[-1]))
        assert view.status == "granted", view

    async def refused(self) -> None:
        """Ask when all places are taken."""
        view = await self._store.lease(self._lease(token()))
        assert view.status == "full", view

    def _lease(self, lease: str) -> Lease:
        return Lease(
            name=self.names[-1],
            lease=lease,
            seconds=600.0,
            probes=_PROBES,
            token=token(),
            replica=next(self._replicas),
        )

    async def settle(self) -> None:
        """Give a place back."""
        settlement = Settlement(
            name=self.names[-1],
            lease=self._leases.pop(),
            epoch=self._epochs[self.names[-1]],
            kind="n",
            probes=_PROBES,
            grid=grid(SuccessRatio(0.6, _PROBES)),
            token=token(),
            replica=next(self._replicas),
            cooldown=30.0,
            opens=2,
        )
        view = await self._store.settle(settlement)
        assert view.status == "counted", view

    async def presence(self) -> None:
        """Say that a replica is there."""
        await self._store.presence(next(self._replicas), 600.0)

    async def learned(self) -> None:
        """Say how late a replica learned."""
        await self._store.learned(self.names[-1], self._epochs[self.names[-1]], next(self._replicas), 0.005)

    async def look(self) -> None:
        """Look at as many breakers as one command takes."""
        await self._store.look(self.names)

    async def console(self) -> None:
        """Ask what the console asks."""
        await self._store.history(self.names[-1], 100)
        await self._store.fleet(self.names[-1])


async def measure(server: Server, rounds: int = _ROUNDS) -> Scripts:
    """Do everything that the library asks of the server."""
    server.flush()
    store = RedisStore.from_url(server.url, prefix="scripts")
    await store.start(lambda _name, _record: None, lambda: None)
    fleet, found = _Fleet(store), Scripts()
    await fleet.prepare()
    for number in range(rounds):
        say(f"scripts: round {number + 1} of {rounds}")
        await _round(server, fleet, found)
    await store.aclose()
    return found


async def _round(server: Server, fleet: _Fleet, found: Scripts) -> None:
    first, twenty = fleet.names[:1], fleet.names[:20]
    full = time.monotonic() + 1.2 * _WINDOW
    while time.monotonic() < full:
        await fleet.record(first)

    async def case(label: str, command: str, operation: Operation, times: int = _TIMES) -> None:
        with Slowlog(server, _THRESHOLD) as log:
            for _ in range(times):
                await operation()
        found.timed.setdefault(label, Timed()).rounds.append(log.times.get(command, []))

    await case(RECORD, "record", lambda: fleet.record(first))
    await case("record, 20 breakers in one call", "record", lambda: fleet.record(twenty), 50)
    await case("read", "read", lambda: fleet.read(first))
    await case("read, 20 breakers in one call", "read", lambda: fleet.read(twenty), 50)
    await case("transition, won", "transition", fleet.transition)
    await case("transition, lost", "transition", fleet.lost)
    await fleet.transition(State.HALF_OPEN)
    await case("lease, granted", "lease", fleet.lease, _PROBES)
    await case("lease, refused", "lease", fleet.refused)
    await case("settle", "settle", fleet.settle, _PROBES)
    await fleet.transition(State.CLOSED)
    await case(f"presence, {REPLICAS} replicas", "presence", fleet.presence)
    await case(f"learned, {REPLICAS} replicas", "learned", fleet.learned)
    await case("look, 500 breakers in one MGET", "MGET", fleet.look, 50)
    await case("history, 100 transitions", "XREVRANGE", fleet.console, 20)
    await case(f"fleet, {REPLICAS} replicas", "ZRANGE", fleet.console, 20)
