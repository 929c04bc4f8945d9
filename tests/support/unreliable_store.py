"""A store behind a bad network: what crosses is lost, late, repeated or held, on command."""

import asyncio
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from commontrip import Store, StoreUnavailableError, Transition
from commontrip._errors import StoreSilentError
from commontrip._store import Ask, Batch, Change, Lease, Settlement, View
from commontrip._transition import parse

T = TypeVar("T")
Way = Literal["request", "reply"]
_HOPS = 20  # turns of the loop from a reply to whoever asked, and some to spare


@dataclass(slots=True)
class Clock:
    """How far (s) the store's clock is off; all replicas of one store share it."""

    shift: float = 0.0


@dataclass(slots=True, eq=False)
class Hold:
    """A message that waits on its way until it is released."""

    request: Any = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def caught(self) -> Any:
        """Wait until there is one, and return the request that it belongs to."""
        async with asyncio.timeout(10):
            await self.arrived.wait()
        return self.request

    async def release(self) -> None:
        """Let it go on, and return when it has arrived and the replica has taken it in."""
        self.released.set()
        async with asyncio.timeout(10):
            await self.done.wait()
        for _ in range(_HOPS):
            await asyncio.sleep(0)


@dataclass(slots=True)
class _Fault:
    of: str | None
    times: int
    lost: Way | None = None
    hang: bool = False
    late: Way | None = None
    seconds: float = 0.0
    again: bool = False
    refused: bool = False
    held: Way | None = None
    hold: Hold | None = None


class UnreliableStore:
    """One replica's store; faults are used up in the order in which they were ordered.

    What is under way goes on when whoever asked has given up, as it does in a network.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        """Stand in front of `store`, which this one starts and closes; faultless at first."""
        self.ttl = store.ttl
        self.asked: list[tuple[str, Any]] = []
        """Every request that a replica made, by operation, the oldest first."""
        self.answered: list[tuple[str, Any]] = []
        """Every answer that the store behind gave, by operation, also those that were lost."""
        self.cut = False
        """Nothing passes, in either direction."""
        self.refusing = False
        """Nothing passes, and whoever asks is told so at once."""
        self.deaf = False
        """No message of the channel arrives, and nobody says so."""
        self._asked_at: dict[str, float] = {}
        self._waiting: list[float] = []
        self._mended_at = -math.inf
        self._store = store
        self._clock = clock or Clock()
        self._faults: deque[_Fault] = deque()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._heard: Callable[[str, str], None] = lambda _name, _record: None
        self._gap: Callable[[], None] = lambda: None

    # -- faults

    def lose_requests(self, times: int = 1, *, of: str | None = None, hang: bool = False) -> None:
        """Lose the next requests (of this operation); with `hang` nobody says so."""
        self._faults.append(_Fault(of, times, lost="request", hang=hang))

    def lose_replies(self, times: int = 1, *, of: str | None = None, hang: bool = False) -> None:
        """Do what is asked and lose the answer; with `hang` nobody says so."""
        self._faults.append(_Fault(of, times, lost="reply", hang=hang))

    def delay(self, way: Way, seconds: float, times: int = 1, *, of: str | None = None) -> None:
        """Let the next requests, or replies, take `seconds` longer."""
        self._faults.append(_Fault(of, times, late=way, seconds=seconds))

    def repeat(self, seconds: float, times: int = 1, *, of: str | None = None) -> None:
        """Do the next requests a second time, `seconds` later, and tell nobody."""
        self._faults.append(_Fault(of, times, again=True, seconds=seconds))

    def refuse(self, times: int = 1, *, of: str | None = None) -> None:
        """Refuse the next requests, as a store does that is out of memory."""
        self._faults.append(_Fault(of, times, refused=True))

    def hold(self, way: Way, of: str) -> Hold:
        """Hold the next request, or reply, of this operation until it is released."""
        hold = Hold()
        self._faults.append(_Fault(of, 1, held=way, hold=hold))
        return hold

    def mend(self) -> None:
        """Let everything pass from here on; if messages were missed, the replica is told."""
        self._faults.clear()
        self._mended_at = asyncio.get_running_loop().time()
        if self.cut or self.deaf:
            self.cut = self.deaf = False
            self._gap()

    async def miss(self) -> None:
        """Tell the replica that messages were missed, as a new connection does."""
        self._gap()

    @property
    def faulty(self) -> bool:
        """Whether anything that was ordered has not happened yet."""
        return self.cut or self.deaf or bool(self._faults)

    @property
    def recovering(self) -> bool:
        """Whether the replica still waits for an answer to what it asked before `mend`."""
        return any(asked_at <= self._mended_at for asked_at in self._waiting)

    def say(self, name: str, record: str) -> None:
        """Let the replica hear a message as if it came from the channel."""
        self._heard(name, record)

    def count(self, operation: str) -> int:
        """Return how many requests of this operation the replica made."""
        return sum(asked == operation for asked, _ in self.asked)

    def silence(self, operation: str) -> float:
        """Return the seconds since the replica's last request of this operation."""
        return asyncio.get_running_loop().time() - self._asked_at.get(operation, -math.inf)

    # -- the calls of the Store protocol

    async def start(self, heard: Callable[[str, str], None], gap: Callable[[], None]) -> None:
        """See `Store.start`."""
        self._heard, self._gap = heard, gap

        def listen(name: str, record: str) -> None:
            if not self.cut and not self.deaf:
                heard(name, self._shifted(record))

        def missed() -> None:
            if not self.cut:
                gap()

        await self._pass("start", None, functools.partial(self._store.start, listen, missed))

    async def aclose(self) -> None:
        """See `Store.aclose`; what is under way is lost."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._store.aclose()

    def commands(self, operation: str, breakers: int) -> int:
        """See `Store.commands`."""
        return self._store.commands(operation, breakers)

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        """See `Store.read`."""

        async def work() -> list[View]:
            return [self._seen(view) for view in await self._store.read(asks)]

        return await self._pass("read", asks, work)

    async def record(self, batches: Sequence[Batch]) -> list[View]:
        """See `Store.record`."""

        async def work() -> list[View]:
            shift = self._clock.shift
            sent = [replace(one, deadline=one.deadline and one.deadline - shift) for one in batches]
            return [self._seen(view) for view in await self._store.record(sent)]

        return await self._pass("record", batches, work)

    async def transition(self, change: Change) -> View:
        """See `Store.transition`."""

        async def work() -> View:
            at = change.decided_at and change.decided_at - self._clock.shift
            return self._seen(await self._store.transition(replace(change, decided_at=at)))

        return await self._pass("transition", change, work)

    async def lease(self, lease: Lease) -> View:
        """See `Store.lease`."""

        async def work() -> View:
            return self._seen(await self._store.lease(lease))

        return await self._pass("lease", lease, work)

    async def settle(self, settlement: Settlement) -> View:
        """See `Store.settle`."""

        async def work() -> View:
            return self._seen(await self._store.settle(settlement))

        return await self._pass("settle", settlement, work)

    async def look(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """See `Store.look`."""

        async def work() -> list[tuple[str, str]]:
            found = await self._store.look(names)
            return [(state, self._shifted(record)) for state, record in found]

        return await self._pass("look", names, work)

    async def history(self, name: str, count: int) -> list[tuple[Transition, str]]:
        """See `Store.history`."""

        async def work() -> list[tuple[Transition, str]]:
            found = await self._store.history(name, count)
            return [(self._moved(transition), note) for transition, note in found]

        return await self._pass("history", name, work)

    async def presence(self, replica: str, seconds: float) -> int:
        """See `Store.presence`."""
        work = functools.partial(self._store.presence, replica, seconds)
        return await self._pass("presence", replica, work)

    async def learned(self, name: str, epoch: str, replica: str, lag: float) -> int:
        """See `Store.learned`."""
        work = functools.partial(self._store.learned, name, epoch, replica, lag)
        return await self._pass("learned", epoch, work)

    async def told(self, name: str, epochs: Sequence[str]) -> None:
        """See `Store.told`."""
        await self._pass("told", epochs, functools.partial(self._store.told, name, epochs))

    async def untold(self, name: str, ages: tuple[float, float], turn: float) -> list[Transition]:
        """See `Store.untold`."""

        async def work() -> list[Transition]:
            return [self._moved(made) for made in await self._store.untold(name, ages, turn)]

        return await self._pass("untold", name, work)

    async def fleet(self, name: str) -> dict[str, float | None]:
        """See `Store.fleet`."""
        return await self._pass("fleet", name, functools.partial(self._store.fleet, name))

    # -- the way there and back

    async def _pass(self, operation: str, request: Any, work: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time()
        self.asked.append((operation, request))
        self._asked_at[operation] = now
        fault = self._fault(operation)
        if fault.hold:
            fault.hold.request = request
        self._waiting.append(now)
        try:
            return await asyncio.shield(self._spawn(self._cross(operation, fault, work)))
        finally:
            self._waiting.remove(now)

    async def _cross(self, operation: str, fault: _Fault, work: Callable[[], Awaitable[T]]) -> T:
        if self.refusing:
            raise StoreUnavailableError(operation, "refused by the test")
        await self._obstruct("request", operation, fault)
        if fault.refused:
            raise StoreUnavailableError(operation, "refused by the test")
        answer = await work()
        self.answered.append((operation, answer))
        if fault.again:
            self._spawn(self._do_again(fault.seconds, work))
        await self._obstruct("reply", operation, fault)
        if fault.hold:
            fault.hold.done.set()
        return answer

    async def _obstruct(self, way: Way, operation: str, fault: _Fault) -> None:
        if fault.held == way and fault.hold:
            fault.hold.arrived.set()
            await fault.hold.released.wait()
        if fault.late == way:
            await asyncio.sleep(fault.seconds)
        if self.cut or (fault.lost == way and fault.hang):
            await asyncio.get_running_loop().create_future()
        if fault.lost == way:
            raise StoreSilentError(operation, f"{way} lost by the test")

    async def _do_again(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(seconds)
        if not self.cut:
            await work()

    def _fault(self, operation: str) -> _Fault:
        for fault in self._faults:
            if fault.of in (None, operation):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault
        return _Fault(None, 0)

    def _spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._arrived)
        return task

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have given up

    # -- another clock

    def _seen(self, view: View) -> View:
        if not self._clock.shift:
            return view
        made = view.transition and self._moved(view.transition)
        return replace(view, now=view.now + self._clock.shift, transition=made)

    def _shifted(self, record: str) -> str:
        return self._moved(parse(record)).record() if record and self._clock.shift else record

    def _moved(self, made: Transition) -> Transition:
        def move(at: float) -> float:
            return at and at + self._clock.shift

        return replace(
            made,
            since=move(made.since),
            until=move(made.until),
            override_until=move(made.override_until),
            previous_since=move(made.previous_since),
        )
