"""Places among the fleet's probes: asked for in the store, handed to the callers who wait at this replica's door."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from commontrip._calls import Probe
from commontrip._errors import StoreSilentError, StoreUnavailableError
from commontrip._line import within
from commontrip._state import Outcome
from commontrip._store import Lease, View
from commontrip._transition import token

if TYPE_CHECKING:
    from commontrip._circuit import Circuit


class Places:
    """Asks for at most as many places as callers wait, and after a refusal one at a time, at most ten times a second.

    An ask belongs to nobody: a caller who gives up leaves it to the next one, and a place that nobody
    wants is kept for half a lease and then given back.
    """

    __slots__ = ("_asking", "_cautious", "_circuit", "_spare", "_timer", "_waiting", "running")

    def __init__(self, circuit: "Circuit") -> None:
        self._circuit = circuit
        self.running: set[Probe] = set()
        self._waiting: deque[asyncio.Future[Probe | None]] = deque()
        self._asking = 0
        self._cautious = False
        self._spare: Probe | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, seconds: float) -> Probe | None:
        """Return a place, or None if there is none within `seconds`: then look again at what the circuit says."""
        spare, self._spare = self._spare, None
        if spare and not spare.done:
            spare.started = self._circuit.clock()
            return spare
        future: asyncio.Future[Probe | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._ask()
        try:
            await within(seconds, future)
        except asyncio.CancelledError:
            if future.done() and (probe := future.result()):
                self._offer(probe)
            raise
        finally:
            if not future.done():
                future.cancel()
        return None if future.cancelled() else future.result()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def free(self) -> None:
        """Hear that a place is free: ask again without waiting."""
        self._circuit.rest_until = 0.0
        self._circuit.arrange()

    def reset(self) -> None:
        """Forget what was true of another epoch."""
        self._cautious = False
        self._circuit.rest_until = 0.0
        self.give_back()
        self.wake()

    def give_back(self) -> None:
        """Return a place that nobody wants."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._spare:
            self._spare.end(Outcome.CANCELLED)
            self._spare = None

    def _ask(self) -> None:
        # A large fleet comes with one ask each, not with a whole round each.
        most = 1 if self._cautious else max(1, self._circuit.policy.recover.probes // self._circuit.replica.fleet)
        while self._asking < most and self._asking < sum(not future.done() for future in self._waiting):
            self._asking += 1
            # The caller's trace: the task below is nobody's.
            self._circuit.replica.spawn(self._one(self._circuit.replica.listeners.tell("cause")))

    async def _one(self, cause: str) -> None:
        circuit, policy = self._circuit, self._circuit.policy
        lease = Lease(
            name=circuit.name, lease=token(), seconds=policy.probe_lease, probes=policy.recover.probes, token=token(),
            replica=circuit.replica.id, cause=cause,
        )  # fmt: skip
        asked_at = circuit.clock()
        try:
            view = await self._insist(lease)
        except StoreUnavailableError:
            self.wake()
            return
        finally:
            self._asking -= 1
        circuit.knowledge.learn(view)
        if view.status == "granted" and view.transition:
            self._cautious = False
            probe = Probe(circuit, lease, str(view.transition.epoch), asked_at)
            here = circuit.knowledge.here
            current = here is not None and here.epoch == view.transition.epoch
            if current and circuit.clock() - asked_at < policy.probe_lease / 2:
                self._offer(probe)
                if view.succeeded + view.failed + view.in_flight + self._asking < policy.recover.probes:
                    self._ask()
                elif not self._asking:
                    self.wake()  # the round is full: who waits is refused now, not at the end of the budget
                return
            probe.end(Outcome.CANCELLED)  # the round is over, or the lease may have run out on the way
        if view.status in ("full", "open"):
            self._cautious, rest = True, circuit.replica.rest()
            if view.status == "open" and view.transition:  # asked too early, for which there is no reason to be late
                rest = min(rest, view.transition.until - view.now)
            circuit.rest_until = circuit.clock() + rest
            circuit.arrange()
        self.wake()

    async def _insist(self, lease: Lease) -> View:
        # Asked again under the same id, a place whose reply was lost is ours, not lost for a lease.
        try:
            return await self._circuit.replica.ask(self._circuit, "lease", lease)
        except StoreSilentError:
            return await self._circuit.replica.ask(self._circuit, "lease", lease)

    def _offer(self, probe: Probe) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(probe)
                return
        self.give_back()
        self._spare = probe
        seconds = self._circuit.policy.probe_lease / 2
        self._timer = asyncio.get_running_loop().call_later(seconds, self.give_back)
