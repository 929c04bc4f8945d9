"""`Breakers`: all breakers of one process."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from commontrip import _check
from commontrip._breaker import Breaker
from commontrip._circuit import Circuit
from commontrip._listener import Listener
from commontrip._policy import Policy
from commontrip._replica import Replica
from commontrip._store import Store
from commontrip._transition import Transition

_DEFAULT = Policy()


class Breakers:
    """The breakers of one process, on one store: one subscription, one batch and one look for them all.

    Use as `async with`, once per process and event loop, never across a fork. Starting needs no store: without one
    every breaker decides alone until it is there. Leaving sends what waits, within half a second.
    """

    def __init__(
        self,
        store: Store,
        *,
        listeners: Iterable[Listener] = (),
        store_budget: float = 0.05,
        fleet_rate: float = 5000.0,
        most: int = 10_000,
        replica: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a store and settings.

        Args:
            store: a `RedisStore`, or a `MemoryStore` where there is one replica only.
            listeners: whom to tell of transitions, calls and troubles.
            store_budget: seconds by which the store may delay one call, 0.001 to 10.
            fleet_rate: commands per second of all replicas together, trips and probes aside, 10 to 1,000,000.
            most: breakers kept for those who have let go of them (one per host, say), the latest used, 1 to 1,000,000.
            replica: this process's name; made from host and process id if empty. Two replicas must not share one.
            clock: monotonic seconds; a test may pass its own.
        """
        _check.that(isinstance(listeners, Iterable), "listeners", "an iterable of Listener", listeners)
        listeners = tuple(listeners)
        for listener in listeners:
            _check.that(isinstance(listener, Listener), "each of listeners", "a Listener", listener)
        _check.that(callable(getattr(store, "record", None)) and not isinstance(store, type), "store", "a Store", store)
        _check.that(callable(clock), "clock", "callable", clock)
        self._store = store
        self._listeners = listeners
        self._budget = _check.number("store_budget", store_budget, 0.001, 10)
        self._rate = _check.number("fleet_rate", fleet_rate, 10, 1_000_000)
        self._most = _check.whole("most", most, 1)
        self._name = _check.name("replica", replica) if replica else ""
        self._clock = clock
        self._replica: Replica | None = None
        self._kept: OrderedDict[str, Breaker] = OrderedDict()
        self._alive: WeakValueDictionary[str, Breaker] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        """Connect, listen, and load what calls must not wait for; at most a second if the store does not answer."""
        if self._replica is not None:
            raise RuntimeError("this Breakers is in use; make one per process and enter it once")
        self._replica = Replica(
            self._store,
            self,
            self._listeners,
            budget=self._budget,
            rate=self._rate,
            clock=self._clock,
            name=self._name,
        )
        self._replica.listeners.tell("watch", self)
        try:
            await self._replica.start()
        except BaseException:
            await self._give_up(self._replica)
            raise
        return self

    async def _give_up(self, replica: Replica) -> None:
        """Leave nothing running of a start that was cut short, so that it can be tried again."""
        self._replica = None
        replica.line.down = True  # it has not joined, and tells nobody that it leaves
        await replica.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits and disconnect."""
        for circuit in self.circuits():
            circuit.close()
        await self._started().stop()

    def _started(self) -> Replica:
        if self._replica is None:
            raise RuntimeError("Breakers is not started: use `async with Breakers(...) as breakers`")
        return self._replica

    def get(self, name: str, policy: Policy | None = None) -> Breaker:
        """Return the breaker of that name, made with `policy` (or the default) if there is none; no I/O.

        A name is 1 to 200 of A-Z a-z 0-9 . _ -. Another policy for a known name is a `ValueError`. Breakers beyond
        `most` that nobody else holds are forgotten, the longest unasked first; the fleet remembers them.
        """
        breaker = self._alive.get(name)
        if breaker is None:
            _check.that(policy is None or isinstance(policy, Policy), "policy", "a Policy", policy)
            circuit = Circuit(_check.name("name", name), policy or _DEFAULT, self._started())
            breaker = self._alive[name] = Breaker(circuit)
        elif policy is not None and policy != breaker.policy:
            raise ValueError(f"breaker {name!r} has another policy already: {breaker.policy!r}, not {policy!r}")
        self._kept[name] = breaker
        self._kept.move_to_end(name)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return breaker

    def find(self, name: str) -> Breaker | None:
        """Return the breaker of that name if this process has it; no I/O."""
        return self._alive.get(name)

    def __iter__(self) -> Iterator[Breaker]:
        """Iterate over the breakers of this process, by name; from any thread."""
        return iter(sorted(self._all(), key=lambda breaker: breaker.name))

    def _all(self) -> list[Breaker]:
        # The list of references is taken in one step: metrics are collected in threads.
        return [breaker for reference in self._alive.valuerefs() if (breaker := reference())]

    @property
    def replica(self) -> str:
        """This process's name in the fleet."""
        return self._started().id

    @property
    def local(self) -> bool:
        """Whether the store is away."""
        return self._started().line.down

    async def flush(self) -> None:
        """Send what waits and wait for the answers; for tests, and before a process is frozen."""
        await self._started().flush()

    async def fleet(self, name: str) -> dict[str, float | None]:
        """Return who is in the fleet, and how late (s) each learned of the breaker's epoch, None if it has not.

        Two round trips. Raises `StoreUnavailableError`.
        """
        replica = self._started()
        work = replica.store.fleet(_check.name("name", name))
        return await replica.line.call("fleet", work, vital=False)

    async def told(self, name: str, epochs: Iterable[str]) -> None:
        """Note for the fleet that these transitions of a breaker have been told to whoever keeps them outside.

        One round trip. Raises `StoreUnavailableError`.
        """
        replica = self._started()
        work = replica.store.told(_check.name("name", name), tuple(epochs))
        await replica.line.call("told", work, vital=False)

    async def untold(self, name: str, *, older: float, younger: float, turn: float) -> list[Transition]:
        """Return the transitions between two ages (s) that nobody has told of: their makers may have been killed.

        For `turn` seconds nobody else is given them. One round trip, a second one if there are any; in a large fleet
        after a moment's wait, so that it keeps its rate. A store that ends with its process has none. Raises
        `StoreUnavailableError`.
        """
        replica = self._started()
        await replica.spread(0.1)
        work = replica.store.untold(_check.name("name", name), (older, younger), turn)
        return await replica.line.call("untold", work, vital=False)

    def circuits(self) -> list[Circuit]:
        """Return what is behind the breakers; not for users."""
        return [breaker._circuit for breaker in self._all()]  # noqa: SLF001 - two halves of one thing

    def circuit(self, name: str) -> Circuit | None:
        """Return what is behind one breaker; not for users."""
        breaker = self._alive.get(name)
        return breaker._circuit if breaker else None  # noqa: SLF001 - two halves of one thing
