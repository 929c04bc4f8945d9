"""One process in the fleet: batches, looks and the heartbeat, for all its circuits together.

All three space out as the fleet grows, so that the store's load is bounded however many replicas there are.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from itertools import count
from typing import Any, Protocol, TypeVar

from commontrip._circuit import Circuit
from commontrip._errors import StoreUnavailableError
from commontrip._line import AGAIN, PATIENCE, Line
from commontrip._listener import Applied, Listener, Listeners
from commontrip._store import Change, Store, View, chunks
from commontrip._transition import Transition, token, word

T = TypeVar("T")

BATCH, LOOK, HEARTBEAT = 0.1, 0.8, 10.0
"""Seconds between two of each, in a small fleet."""
_SHARES = {BATCH: 0.65, LOOK: 0.2, HEARTBEAT: 0.05}  # of the fleet's rate
_ROUNDED = 0.05  # seconds by which the store's clock may be misread
_ASKED, _LOOKED_AT = 200, 500  # breakers in one question: it has to be answered within the line's patience


class Registry(Protocol):
    """Where a replica finds its circuits."""

    def circuit(self, name: str) -> Circuit | None:
        """Return the circuit of that name, if there is one."""

    def circuits(self) -> list[Circuit]:
        """Return all."""


def _jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, keeps no secret


class Replica:
    """What the circuits of one process share. Made anew each time `Breakers` is entered, never used across a fork."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        listeners: Iterable[Listener],
        *,
        budget: float,
        rate: float,
        clock: Callable[[], float],
        name: str,
    ) -> None:
        listeners = tuple(listeners)
        self.id = name or word(f"{socket.gethostname()}-{os.getpid()}-{token()[:4]}")
        self.sender = f"{self.id}.{token()}"  # numbers its batches anew even if it takes the name of one before it
        self.store = store
        self.clock = clock
        self._born = clock()
        self.budget = budget
        self.listeners = Listeners(listeners, clock)
        self.listening = bool(listeners)
        self.times_calls = any(listener.times_calls for listener in listeners)
        self.line = Line(clock, self.listeners)
        self.fleet = 1
        self._registry = registry
        self._rate = rate
        self._numbers = count(1)
        self._active: dict[str, Circuit] = {}
        self._idle: dict[str, tuple[Circuit, float]] = {}
        self._dirty: dict[str, Circuit] = {}
        self._readers: dict[Circuit, asyncio.Future[View]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errands: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._hurried = self._left = self._returning = False
        self._next_batch = self._next_hurry = 0.0

    @property
    def alone(self) -> bool:
        """Whether the store is away, so that this replica decides alone; not said of one that has left."""
        return self.line.down and not self._left

    def lived_at(self, moment: float) -> bool:
        """Whether this process was there at a moment by the store's clock; a process of the same name may have been."""
        return self.line.now() - moment <= self.clock() - self._born + _ROUNDED

    def next_number(self) -> int:
        """Number a batch: rising over all breakers, so that a forgotten one that comes back repeats none."""
        return next(self._numbers)

    # -- life

    async def start(self) -> None:
        """Connect; an absent store is no reason to fail."""
        with contextlib.suppress(StoreUnavailableError):
            await self.line.call("start", self.store.start(self._heard, self._gap), patience=2 * PATIENCE)
        self.spawn(self._look_now_and_then())
        self.spawn(self._beat())

    async def stop(self) -> None:
        """Send what waits, leave the fleet, disconnect; a store that does not answer delays it by a second."""
        with contextlib.suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.flush()
                if not self.line.down:
                    await self.store.presence(self.id, 0)
        self._stop_timer()
        self._left = True
        self.line.down = True  # a call that comes later still is decided here, and sent nowhere
        tasks = [*self._tasks, *self._errands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.store.aclose()

    def spawn(self, work: Coroutine[Any, Any, T], *, among: set[asyncio.Task[Any]] | None = None) -> asyncio.Task[T]:
        """Run something that belongs to no caller: not in its context, and kept from being collected."""
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work, context=Context())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def errand(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that must not be cut off when the process leaves: a transition, a settlement."""
        return self.spawn(work, among=self._errands)

    # -- asking the store

    async def ask(self, circuit: Circuit, operation: str, request: Any) -> View:
        """Send one request of a circuit to the store that it uses now."""
        known = circuit.knowledge
        alone = self.line.down or known.local is not None
        work = getattr(known.go_local() if alone else self.store, operation)(request)
        try:
            view: View = await (work if alone else self.line.call(operation, work))
        except StoreUnavailableError:
            if self.line.down:
                known.go_local()
            raise
        return view

    async def insist(self, circuit: Circuit, operation: str, request: Any) -> View:
        """Send a request until it is answered: by the store or, once that is given up, by the circuit's own."""
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await self.ask(circuit, operation, request)
            await asyncio.sleep(AGAIN)

    async def order(self, circuit: Circuit, change: Change) -> View:
        """Make an operator's transition in the shared store, local mode or not."""
        circuit.touch()
        return await self.line.call("transition", self.store.transition(change))

    async def read(self, circuit: Circuit, *, seed: bool) -> View:
        """Read a circuit; to admit, together with all others that want to in this turn of the loop."""
        if self.line.down:
            return (await circuit.knowledge.go_local().read([circuit.knowledge.ask()]))[0]
        if not seed:
            return (await self.line.call("read", self.store.read([circuit.knowledge.ask(seed=False)]), vital=False))[0]
        loop = asyncio.get_running_loop()
        if not self._readers:
            loop.call_soon(lambda: self.spawn(self._read_together()))
        return await asyncio.shield(self._readers.setdefault(circuit, loop.create_future()))

    async def _read_together(self) -> None:
        readers, self._readers = self._readers, {}
        try:
            for some in chunks(list(readers), _ASKED):
                asks = [circuit.knowledge.ask() for circuit in some]
                views = await self.line.call("read", self.store.read(asks))
                for circuit, view in zip(some, views, strict=True):
                    readers.pop(circuit).set_result(view)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            for future in readers.values():
                future.set_exception(error)
                future.exception()  # whoever waited may have been cancelled

    # -- batches

    def _pace(self, interval: float, commands: int = 1) -> float:
        """Stretch an interval between so many commands, so that the fleet stays under its rate."""
        return max(interval, self.fleet * commands / (self._rate * _SHARES[interval]))

    def rest(self) -> float:
        """Return the seconds between two asks for a probe's place after a refusal."""
        return self._pace(BATCH)

    def arm(self, circuit: Circuit, *, hurry: bool = False) -> None:
        """Send a circuit's outcomes with the next batch; in a hurry at once, but not twice a second in vain."""
        self._dirty[circuit.name] = circuit
        self._hurried |= hurry
        if self._flushing is None:
            self._schedule()

    def _schedule(self) -> None:
        now = self.clock()
        if self._hurried and now >= self._next_hurry:
            self._next_hurry = now + 1
            self._stop_timer()
            self._fire()
        elif self._timer is None:
            wait = self._next_batch - now if self._next_batch > now else self._pace(BATCH)
            self._timer = asyncio.get_running_loop().call_later(wait, self._fire)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer, self._hurried = None, False
        self._flushing = self.spawn(self._flush())

    async def flush(self) -> None:
        """Send all that waits; wait for the answers, and for the transitions and settlements that follow."""
        while self._dirty or self._flushing or self._errands:
            if self._flushing is None and self._dirty:
                self._stop_timer()
                self._fire()
            work = [*self._errands, self._flushing] if self._flushing else self._errands
            await asyncio.wait(work)

    async def _flush(self) -> None:
        waiting, self._dirty = self._dirty, {}
        self._next_batch = self.clock() + self._pace(BATCH, self.store.commands("record", len(waiting)))
        try:
            for some in chunks(list(waiting.values()), _ASKED):
                with contextlib.suppress(StoreUnavailableError):
                    await self._send(some, waiting)
        finally:  # also if one of them has raised: what was not answered is sent again
            self._dirty |= waiting
            self._flushing = None
            if self._dirty:
                self._schedule()

    async def _send(self, circuits: Sequence[Circuit], waiting: dict[str, Circuit]) -> None:
        """Send what these circuits have to say; whoever has been answered waits no longer."""
        shared = []
        for circuit in circuits:
            if self.line.down:
                circuit.knowledge.go_local()
            local, batch = circuit.knowledge.local, circuit.batch()
            if batch and not local:
                shared.append((circuit, batch))
                continue
            del waiting[circuit.name]
            if batch and local:
                circuit.answered(batch, (await local.record([batch]))[0])
        if shared:
            views = await self.line.call("record", self.store.record([batch for _, batch in shared]))
            for (circuit, batch), view in zip(shared, views, strict=True):
                del waiting[circuit.name]
                circuit.answered(batch, view)

    # -- looks: polling as the fallback of the subscription

    def use(self, circuit: Circuit) -> None:
        """Note that a circuit is in use."""
        self._active[circuit.name] = circuit
        self._idle.pop(circuit.name, None)

    def uses(self, circuit: Circuit) -> bool:
        """Whether a circuit is in use, or was before the last look."""
        return self._active.get(circuit.name) is circuit

    async def _look_now_and_then(self) -> None:
        while True:
            commands = self.store.commands("look", len(self._active))
            await asyncio.sleep(self._pace(LOOK, commands) * _jitter())
            used = self._in_use()
            with contextlib.suppress(StoreUnavailableError):
                if self.line.down:
                    await self._knock()
                    self._returning = True
                await self._look(used)

    async def _knock(self) -> None:
        # By a write: a store that is full, or a replica, answers reads and is of no use.
        try:
            await self._be_present(vital=True)
        except StoreUnavailableError as error:
            circuit = next(iter(self._registry.circuits()), None)
            if not error.misconfigured or circuit is None:
                raise
            # That very right may be missing, and the rest be there: if nothing can be read either, nobody is let in.
            await self.line.call("read", self.store.read([circuit.knowledge.ask(seed=False)]))
        self.line.restore()

    def _in_use(self) -> list[Circuit]:
        """Return what was used since the last look; what was not is idle, and after half a TTL has to be read again."""
        now = self.clock()
        for circuit in [circuit for circuit in self._active.values() if not circuit.used]:
            del self._active[circuit.name]
            self._idle[circuit.name] = (circuit, now)
            if circuit.knowledge.local:
                circuit.knowledge.stale()
        for name, (circuit, since) in list(self._idle.items()):
            if now - since < self.store.ttl / 2:
                break
            del self._idle[name]
            circuit.knowledge.stale()
        for circuit in self._active.values():
            circuit.used = False
        return list(self._active.values())

    async def _look(self, used: list[Circuit]) -> None:
        away = dict.fromkeys(circuit for circuit in used if circuit.knowledge.local)
        if self._returning:  # a verdict is told also if nobody uses the breaker: a newcomer must not find none
            away |= dict.fromkeys(circuit for circuit in self._registry.circuits() if circuit.knowledge.owed)
        for some in chunks(list(away), _ASKED):
            views = await self.line.call("read", self.store.read([circuit.knowledge.ask() for circuit in some]))
            for circuit, view in zip(some, views, strict=True):
                circuit.informed(view)
        self._returning = False
        last = self.clock() - BATCH  # who answers batches has said it already
        quiet = [circuit for circuit in used if circuit.knowledge.here and circuit.knowledge.heard_at < last]
        if not quiet or self.line.down:
            return
        for some in chunks(quiet, _LOOKED_AT):
            found = await self.line.call("look", self.store.look([circuit.name for circuit in some]))
            for circuit, (state, record) in zip(some, found, strict=True):
                circuit.knowledge.looked(state, record)

    # -- news

    def _heard(self, name: str, record: str) -> None:
        if not self._left and (circuit := self._registry.circuit(name)):
            circuit.knowledge.heard(record)

    def _gap(self) -> None:
        """Messages may have been missed."""
        for circuit in self._registry.circuits():
            circuit.knowledge.suspect()

    def announce(self, circuit: Circuit, found: Transition, old: Transition | None, *, made: bool) -> None:
        """Tell of a transition that now holds here, and of one of our own that was overtaken before we heard of it."""
        local = circuit.knowledge.local is not None
        news = Applied(breaker=circuit.name, transition=found, made=made, applied_at=self.line.now(), local=local)
        self.listeners.tell("on_transition", news)
        if local:
            return
        if not made:  # the commit has noted who made it
            self.spawn(self._note(circuit, found, news.lag))
        skipped = found.epoch.number - old.epoch.number - 1 if old else 0
        if skipped > 0 and old and old.epoch.incarnation == found.epoch.incarnation:
            self.spawn(self._catch_up(circuit, found, skipped))

    async def _catch_up(self, circuit: Circuit, found: Transition, skipped: int) -> None:
        with contextlib.suppress(StoreUnavailableError):
            history = await self.line.call("history", self.store.history(circuit.name, skipped + 1), vital=False)
            for past, _ in reversed(history):
                near = 0 < found.epoch.number - past.epoch.number <= skipped
                if past.replica == self.id and near and past.epoch.incarnation == found.epoch.incarnation:
                    news = Applied(breaker=circuit.name, transition=past, made=True, applied_at=self.line.now())
                    self.listeners.tell("on_transition", news)

    async def _note(self, circuit: Circuit, found: Transition, lag: float) -> None:
        await self.spread()
        with contextlib.suppress(StoreUnavailableError):
            work = self.store.learned(circuit.name, str(found.epoch), self.id, lag)
            if rank := await self.line.call("learned", work, vital=False):
                self.listeners.tell("on_learned", circuit.name, rank)

    async def spread(self, share: float = 1.0) -> None:
        """Wait for a moment that keeps the fleet, if all its replicas ask at once, under a share of its rate."""
        await asyncio.sleep(random.uniform(0, self.fleet / (self._rate * share)))  # noqa: S311 - spreads load

    async def _beat(self) -> None:
        while True:
            if not self.line.down:
                with contextlib.suppress(StoreUnavailableError):
                    await self._be_present(vital=False)
            await asyncio.sleep(self._pace(HEARTBEAT) * _jitter())

    async def _be_present(self, *, vital: bool) -> None:
        work = self.store.presence(self.id, 3 * self._pace(HEARTBEAT))
        self.fleet = max(1, await self.line.call("presence", work, vital=vital))
