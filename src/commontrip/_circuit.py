"""One replica's copy of one circuit: it admits calls, counts what they did, and lets the policy decide.

Two attributes are all that a call looks at: `gate`, where calls pass and are counted, and, if there is none,
`refuse_until`. `arrange` derives both from what is known; nothing else sets them.
"""

import asyncio
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from commontrip._calls import Call, Probe, Running
from commontrip._counts import Counts, Tally
from commontrip._errors import CircuitOpenError
from commontrip._knowledge import NEWBORN, Knowledge
from commontrip._ledger import Ledger
from commontrip._line import within
from commontrip._places import Places
from commontrip._policy import Policy
from commontrip._recover import grid
from commontrip._state import Outcome, Override, Reason, State
from commontrip._store import Batch, View

if TYPE_CHECKING:
    from commontrip._replica import Replica


class Circuit:
    """Admission, outcomes and decisions; what is known is in `knowledge`, what is counted in `ledger`."""

    def __init__(self, name: str, policy: Policy, replica: "Replica") -> None:
        self.name = name
        self.policy = policy
        self.replica = replica
        self.clock = replica.clock
        self.listening = replica.listening
        self.times_calls = replica.times_calls
        self.slower_than = policy.slower_than
        self.values_matter = policy.classify.looks_at_values
        self.gate: Tally | None = None
        self.refuse_until = 0.0
        self.used = False  # since the last look
        self.rejected = 0
        self.ledger = Ledger(self)
        self.knowledge = Knowledge(self)
        self._places: Places | None = None
        self.running = Running(self.slower_than) if self.slower_than else None
        self.provisional_until = 0.0
        self.rest_until = 0.0  # after a refused ask for a place
        self.cause = ""
        self.owner: object = None  # the breaker lives as long as there is anything to do for it
        self._error = ""

    @cached_property
    def grid(self) -> str:
        """The policy's verdict for every tally of probes."""
        return grid(self.policy.recover)

    @property
    def places(self) -> Places:
        """The places among the fleet's probes; made when first needed, which most circuits never do."""
        if self._places is None:
            self._places = Places(self)
        return self._places

    # -- a call's way in

    def refuse(self, retry_after: float = 0.0) -> CircuitOpenError:
        """Count a refusal and return its error."""
        self.rejected += 1
        if not self.used:
            self.touch()
        if self.listening:
            self._tell(Outcome.REJECTED, probe=False)
        return CircuitOpenError(self.name, retry_after)

    async def enter(self) -> Call:
        """Admit a call or raise `CircuitOpenError`; asks the store only if the local copy cannot tell."""
        admitted = self.gate or await self._admit()
        return admitted if isinstance(admitted, Probe) else self.begin_call(admitted)

    def begin_call(self, tally: Tally) -> Call:
        """Start a timed call that the gate has admitted."""
        call = Call(self, tally)
        if self.running:
            self.running.add(call)
        return call

    async def _admit(self) -> Tally | Probe:
        """Admit a call that found no gate, or refuse it within the store budget."""
        left, refused = self.replica.budget, False
        while self.gate is None:
            wait, now = self.refuse_until - self.clock(), time.monotonic()
            if wait > 0 or left <= 0 or refused:
                raise self.refuse(max(0.0, wait))
            self.touch()
            if not self.knowledge.fresh:
                answered = await within(left, self.knowledge.reread())
                left = max(left - time.monotonic() + now, self.replica.budget / 5) if answered else 0.0
            elif self.knowledge.newborn:  # it is the circuit that is not ready, not the store that is slow
                await asyncio.sleep(NEWBORN * 0.3)  # so that the last look is 5 ms late, as news may be
                self.arrange()  # the alarm that does it too has stopped where the process has left
            else:
                epoch = self.knowledge.here
                if probe := await self.places.take(left):
                    return probe
                left -= time.monotonic() - now
                refused = epoch is self.knowledge.here
        return self.gate

    def touch(self) -> None:
        """Note that the breaker is in use."""
        self.used = True
        self.replica.use(self)

    # -- a call's way out

    def judge(
        self, look: Callable[[Any], tuple[Outcome, float]], what: Any, otherwise: Outcome
    ) -> tuple[Outcome, float]:
        """Ask the policy what an exception or a value counts as; a classification that raises is reported."""
        try:
            return look(what)
        except Exception as error:  # noqa: BLE001 - a user's hook must not change the caller's result
            self.report("bad_hook", f"the policy's classification raised {error!r}")
            return otherwise, 0.0

    def refused(self, error: BaseException) -> bool:
        """Whether an exception is a refusal of this very circuit, as by a call within the call."""
        return isinstance(error, CircuitOpenError) and error.name == self.name

    def judge_error(self, error: BaseException) -> tuple[Outcome, float]:
        """Return what an exception counts as, and the Retry-After in it; a refusal of our own blames nobody."""
        if self.refused(error):
            return Outcome.IGNORED, 0.0
        classify = self.policy.classify
        return self.judge(classify.error, error, classify.kind(error))

    def failed(self, tally: Tally, error: BaseException) -> None:
        """Count a call that raised and was not timed."""
        outcome, retry_after = self.judge_error(error)
        if outcome == Outcome.FAILURE:
            tally.fail(type(error).__name__, retry_after)
        elif outcome == Outcome.SLOW:
            tally.slow += 1
            tally.succeed()
        self.ended(outcome, tally, type(error).__name__)

    def ended(self, outcome: Outcome, tally: Tally | None, error: str, *, probe: bool = False) -> None:
        """Keep the totals, tell who listens, and see whether that crossed the threshold."""
        if not self.used:  # also by calls that count for nothing
            self.touch()
        self.ledger.add(outcome, tallied=tally is not None)
        bad = outcome in (Outcome.FAILURE, Outcome.SLOW)
        if bad:
            self._error = error or self._error
        if bad or probe:
            self.cause = self.replica.listeners.tell("cause")
        if self.listening and (bad or probe):
            self._tell(outcome, probe=probe)
        if tally is not None and bad:
            self.crossed(tally)

    def _tell(self, outcome: Outcome, *, probe: bool) -> None:
        self.replica.listeners.tell("on_call", self.name, self.knowledge.state, outcome, probe=probe)

    def took(self, outcome: Outcome, seconds: float) -> None:
        """Tell who listens how long a call took."""
        self.replica.listeners.tell("on_ended", self.name, outcome, seconds)

    def crossed(self, tally: Tally) -> None:
        """Close the gate at once if, as far as this replica knows, the threshold is crossed."""
        if tally is self.gate and self.knowledge.order is None and self._trips(self.ledger.merged):
            self.provisional_until = self.clock() + self.policy.cooldown.initial
            self.arrange()
            self.replica.arm(self, hurry=True)

    def _trips(self, counts: Counts) -> bool:
        try:
            return self.policy.trip.trips(counts)
        except Exception as error:  # noqa: BLE001 - a user's strategy must not change the caller's result
            self.report("bad_hook", f"the policy's trip strategy raised {error!r}; the circuit stays as it is")
            return False

    # -- what follows from what is known

    @property
    def provisional(self) -> bool:
        """Whether calls are refused until the store has confirmed or denied that the threshold is crossed."""
        return self.provisional_until > 0

    def begin(self) -> None:
        """Start a new epoch."""
        self.ledger.begin()
        self.provisional_until = 0.0
        self.cause = self._error = ""
        if self._places:
            self._places.reset()

    def arrange(self) -> None:
        """Derive the gate, and the time until which calls are refused without asking."""
        known = self.knowledge
        self.gate, self.refuse_until = None, 0.0
        if not known.fresh or known.here is None:
            return
        if known.state == State.OPEN:
            self.refuse_until = max(known.open_until, self.rest_until)
        elif known.state == State.HALF_OPEN:
            self.refuse_until = self.rest_until
        elif self.provisional:
            self.refuse_until = self.provisional_until
        elif not known.newborn:
            self.gate = Tally(self.armed) if known.order == Override.DISABLED else self.ledger.tally

    def release(self) -> None:
        """Take a provisional refusal back."""
        if self.provisional:
            self.provisional_until = 0.0
            self.arrange()

    def armed(self, tally: Tally) -> None:
        """Hear of the first outcome in a tally."""
        self.touch()
        if tally is not self.ledger.tally:  # of another epoch, or nothing counts now
            self.ledger.discard(tally)
            if tally is self.gate and self.knowledge.order is None:
                self.arrange()
            return
        tally.armed = True
        self.replica.arm(self)

    def report(self, kind: str, text: str) -> None:
        """Tell who listens of a trouble."""
        self.replica.listeners.report(kind, self.name, text)

    # -- batches and decisions

    def batch(self) -> Batch | None:
        """Return what is to be sent; a provisional refusal wants an answer even with nothing to send."""
        here = self.knowledge.here
        return self.ledger.batch(str(here.epoch), even_empty=self.provisional) if here else None

    def answered(self, batch: Batch, view: View) -> None:
        """Hear what became of a batch."""
        self.ledger.answered(batch, late=view.status == "late")
        self.knowledge.learn(view)
        if view.status in ("ok", "dup", "late"):
            self._decide(view)
        else:
            self.release()
        if self.ledger.waiting:
            self.replica.arm(self)

    async def read(self, *, seed: bool) -> View:
        """Read from the store that is used now; without `seed` only to look. Raises `StoreUnavailableError`."""
        while True:
            answers, self.knowledge.overtaken = self.ledger.answers, False
            view = await self.replica.read(self, seed=seed)
            if not self.knowledge.overtaken or self.knowledge.local:
                break  # else the answer may be older than what was heard meanwhile
        if seed or view.transition or self.knowledge.here:
            self.informed(view, stale=answers != self.ledger.answers)
        return view

    def informed(self, view: View, *, stale: bool = False) -> None:
        """Hear the answer to a read; if it is stale, a batch was answered meanwhile and its counts are older."""
        if self.knowledge.local and not self.replica.line.down:
            self.knowledge.go_home(view)
        else:
            self.knowledge.learn(view, last_word=True)
        if not self.knowledge.fresh:
            self.replica.use(self)  # so that it is not taken for fresh for ever, if nothing else is use
        self.knowledge.fresh = True
        self.arrange()
        if not stale:
            self._decide(view)

    def _decide(self, view: View) -> None:
        """Let the policy say trip or stay, on the facts that the store has just told."""
        here, found = self.knowledge.here, view.transition
        if here is None or found is None or here.epoch != found.epoch or here.state != State.CLOSED:
            return
        self.ledger.set(view.counts)
        if self.knowledge.busy or self.knowledge.order == Override.DISABLED:
            return
        if not self._trips(view.counts):
            if not self._trips(self.ledger.merged):
                self.release()
            else:
                self.replica.arm(self, hurry=True)
        elif self.knowledge.order == Override.OBSERVE:
            counts = view.counts
            text = f"would have opened: {counts.failures} failures, {counts.slow} slow of {counts.calls} calls"
            self.report("would_open", text)
        else:
            self._trip(view, here.opens + 1)

    def _trip(self, view: View, opens: int) -> None:
        retry_after = max(view.retry_after, self.ledger.retry_after_until - self.clock())
        cooldown = self.policy.cooldown.after(opens, retry_after)
        self.knowledge.propose(
            self.knowledge.change(
                view.transition,
                State.OPEN,
                Reason.TRIPPED,
                remaining=cooldown,
                cooldown=cooldown,
                opens=opens,
                failures=view.counts.failures,
                calls=view.counts.calls,
                error=self._error,
                cause=self.cause,
                decided_at=view.now,
            )
        )

    def close(self) -> None:
        """Stop what would run on."""
        self.knowledge.stop_alarm()
        if self.running:
            self.running.stop()
        if self._places:
            self._places.give_back()
            self._places.wake()
