"""One admitted call, from its admission to its outcome: plain, timed, or a probe under a lease."""

import asyncio
import contextlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from commontrip._counts import Tally
from commontrip._errors import StoreUnavailableError
from commontrip._state import Outcome
from commontrip._store import Lease, Settlement
from commontrip._transition import token

if TYPE_CHECKING:
    from commontrip._circuit import Circuit


class Call:
    """A call admitted while the circuit was closed. Its outcome counts in the epoch that admitted it."""

    __slots__ = ("circuit", "counted", "done", "started", "tally")
    probe = False

    def __init__(self, circuit: "Circuit", tally: Tally | None) -> None:
        self.circuit = circuit
        self.tally = tally
        self.started = circuit.clock()
        self.counted = False  # as slow, while it hung
        self.done = False

    def returned(self, value: Any) -> None:
        """Count what the value says."""
        if self.circuit.values_matter:
            look = self.circuit.policy.classify.value
            outcome, retry_after = self.circuit.judge(look, value, Outcome.SUCCESS)
            self.end(outcome, retry_after=retry_after)
        else:
            self.end(Outcome.SUCCESS)

    def raised(self, error: BaseException) -> None:
        """Count what the exception says."""
        outcome, retry_after = self.circuit.judge_error(error)
        self.end(outcome, type(error).__name__, retry_after)

    def end(self, outcome: Outcome, error: str = "", retry_after: float = 0.0) -> None:
        """Count an outcome; only the first one counts."""
        if self.done:
            return
        self.done = True
        limit, tally = self.circuit.slower_than, self.tally
        overdue = limit is not None and self.circuit.clock() - self.started >= limit
        if self.circuit.times_calls:
            slow = overdue and outcome is Outcome.SUCCESS
            self.circuit.took(Outcome.SLOW if slow else outcome, self.circuit.clock() - self.started)
        if outcome is Outcome.SUCCESS:
            if not overdue and tally is not None:
                tally.ok += 1
                if not tally.armed:
                    tally.arm()
                return
            outcome = Outcome.SLOW if overdue else outcome
        if self.counted:
            self.circuit.ledger.ends(outcome)
        if tally is not None and outcome == Outcome.FAILURE:
            tally.slow += overdue and not self.counted
            tally.fail(error, retry_after, counted=self.counted)
        elif tally is not None and outcome == Outcome.SLOW and not self.counted:
            tally.slow += 1
            tally.succeed()
        self.circuit.ended(outcome, tally, error)

    async def settled(self) -> None:
        """Wait, within the store budget, until the store knows what a probe did."""

    def hangs(self) -> None:
        """Count it as slow although it has not ended."""
        tally = cast("Tally", self.tally)  # a probe is not watched: its lease is
        self.counted = True
        tally.slow += 1
        tally.succeed()
        self.circuit.ledger.hangs()
        self.circuit.crossed(tally)


class Running:
    """The calls that have not ended, oldest first, so that those that hang are counted while they hang."""

    __slots__ = ("_calls", "_limit", "_timer")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._calls: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Watch a call."""
        calls = self._calls
        while calls and calls[0].done:
            calls.popleft()
        calls.append(call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        while self._calls:
            call = self._calls[0]
            left = call.started + self._limit - call.circuit.clock()
            if not call.done and left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._sweep)
                return
            self._calls.popleft()
            if not call.done:
                call.hangs()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer:
            self._timer.cancel()
        self._calls.clear()


class Probe(Call):
    """A call admitted in HALF_OPEN: it holds a lease, renews it while it runs, and gives it back."""

    __slots__ = ("_renewal", "_renewing", "_settling", "epoch", "lease")
    probe = True

    def __init__(self, circuit: "Circuit", lease: Lease, epoch: str, asked_at: float) -> None:
        super().__init__(circuit, None)
        circuit.places.running.add(self)
        self.lease = lease.lease
        self.epoch = epoch
        self._settling: asyncio.Task[None] | None = None
        self._renewing = True
        self._renewal = circuit.replica.spawn(self._renew(replace(lease, renew=True), asked_at))

    async def _renew(self, lease: Lease, renewed_at: float) -> None:
        """Renew every third of a lease, from when it was asked for, up to the probe limit."""
        circuit, policy = self.circuit, self.circuit.policy
        limit = min(policy.probe_limit, circuit.slower_than or policy.probe_limit)
        while (left := self.started + limit - circuit.clock()) > 0:
            due = renewed_at + lease.seconds / 3 - circuit.clock()
            await asyncio.sleep(min(left, max(0.0, due)))
            if due < left:
                renewed_at = circuit.clock()
                with contextlib.suppress(StoreUnavailableError):
                    circuit.knowledge.learn(await circuit.replica.ask(circuit, "lease", lease))
        self._renewing = False
        self.end(Outcome.SLOW if circuit.slower_than else Outcome.FAILURE, "ProbeLimit")

    def end(self, outcome: Outcome, error: str = "", retry_after: float = 0.0) -> None:
        """Settle; only the first outcome counts. A slow probe has failed if the policy knows slow.

        If the round fails, its cooldown is the longest Retry-After of all that failed at this replica.
        """
        if self.done:
            return
        limit = self.circuit.slower_than
        if outcome == Outcome.SUCCESS and limit is not None and self.circuit.clock() - self.started >= limit:
            outcome = Outcome.SLOW
        self.done = True
        self.circuit.places.running.discard(self)
        if self._renewing:
            self._renewal.cancel()
        slow_is = "s" if limit is None else "f"
        kind = {Outcome.SUCCESS: "s", Outcome.FAILURE: "f", Outcome.SLOW: slow_is}.get(outcome, "n")
        if self.circuit.times_calls:
            self.circuit.took(outcome, self.circuit.clock() - self.started)
        self.circuit.ended(outcome, None, error, probe=True)
        if kind == "f":
            self.circuit.ledger.leave_alone(retry_after)
        self._settling = self.circuit.replica.errand(self._settle(kind, error, retry_after))

    async def settled(self) -> None:
        """See `Call.settled`."""
        if self._settling:
            await asyncio.wait({self._settling}, timeout=self.circuit.replica.budget)

    async def _settle(self, kind: str, error: str, retry_after: float) -> None:
        circuit, policy = self.circuit, self.circuit.policy
        opens = (circuit.knowledge.here.opens if circuit.knowledge.here else 0) + 1
        retry_after = max(retry_after, circuit.ledger.retry_after_until - circuit.clock())
        settlement = Settlement(
            name=circuit.name, lease=self.lease, epoch=self.epoch, kind=kind, probes=policy.recover.probes,
            grid=circuit.grid, token=token(), replica=circuit.replica.id,
            cooldown=policy.cooldown.after(opens, retry_after), opens=opens, error=error, cause=circuit.cause,
        )  # fmt: skip
        view = await circuit.replica.insist(circuit, "settle", settlement)
        circuit.knowledge.learn(view)
        if view.in_flight < policy.recover.probes:
            circuit.places.free()
