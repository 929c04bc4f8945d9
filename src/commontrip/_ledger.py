"""What one replica has counted of one breaker: what the store has answered for, what is under way, what waits."""

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from commontrip._counts import Counts, Run, Tally
from commontrip._state import Outcome
from commontrip._store import Batch
from commontrip._trip import ConsecutiveFailures

if TYPE_CHECKING:
    from commontrip._circuit import Circuit

TOO_LATE = 1.0
"""Seconds after which what was not delivered, or not decided, is dropped."""


class Ledger:
    """The outcomes of the current epoch on their way to the store, and all calls since the start.

    A batch keeps its number until it is answered or too late; what comes meanwhile waits for the next one.
    """

    def __init__(self, circuit: "Circuit") -> None:
        self._circuit = circuit
        self.tally: Tally | None = None
        self.answers = 0
        self.retry_after_until = 0.0
        self._counts = Counts()
        self._counted_at = 0.0
        self._sent: Batch | None = None
        self._sent_until = 0.0
        self._passed = 0  # calls that ended well, slow ones among them, as far as they have left their tally
        self._totals: Counter[Outcome] = Counter()
        self._hanging = 0

    def begin(self) -> None:
        """Start a new epoch: what is not sent is old news."""
        self._take()
        self.tally = Tally(self._circuit.armed)
        self._sent = None
        self._counts, self._counted_at = Counts(), self._circuit.clock()

    def _take(self) -> Run:
        if not self.tally:
            return Run()
        self._passed += self.tally.ok
        run = self.tally.take()
        if run.retry_after:
            self.leave_alone(run.retry_after)
        return run

    def leave_alone(self, seconds: float) -> None:
        """Hear for how long the dependency wants to be left alone; only this replica remembers it."""
        self.retry_after_until = max(self.retry_after_until, self._circuit.clock() + seconds)

    def discard(self, tally: Tally) -> None:
        """Take in a tally that no longer counts, for the totals only."""
        self._passed += tally.ok
        tally.take()

    def add(self, outcome: Outcome, *, tallied: bool) -> None:
        """Add a call to the totals; its tally adds those that ended well."""
        if outcome in (Outcome.SUCCESS, Outcome.SLOW) and not tallied:
            self._passed += 1
        if outcome is not Outcome.SUCCESS:
            self._totals[outcome] += 1

    def hangs(self) -> None:
        """Hear that a call has been tallied as slow before it ended; no total shows it yet."""
        self._hanging += 1

    def ends(self, outcome: Outcome) -> None:
        """Hear what became of it."""
        self._hanging -= 1
        self._passed -= outcome is not Outcome.SLOW

    def totals(self) -> dict[Outcome, int]:
        """Return this replica's calls by outcome, since its start."""
        passed = self._passed + (self.tally.ok if self.tally else 0)
        return {outcome: self._totals[outcome] for outcome in Outcome} | {
            Outcome.SUCCESS: passed - self._totals[Outcome.SLOW] - self._hanging,
            Outcome.REJECTED: self._circuit.rejected,
        }

    def batch(self, epoch: str, *, even_empty: bool) -> Batch | None:
        """Return what is to be sent: the unanswered batch again, or what has been counted since."""
        circuit, now = self._circuit, self._circuit.clock()
        if self._sent and now > self._sent_until:
            calls, self._sent = self._sent.run.calls, None
            circuit.report("lost_batch", f"{calls} outcomes were not delivered within {TOO_LATE:g} s and are dropped")
        if self._sent is None:
            run = self._take()
            if not run and not even_empty:
                return None
            policy, replica = circuit.policy, circuit.replica
            self._sent_until = now + TOO_LATE
            self._sent = Batch(
                name=circuit.name,
                epoch=epoch,
                number=replica.next_number(),
                replica=replica.sender,
                run=run,
                window=policy.window,
                show_run=isinstance(policy.trip, ConsecutiveFailures),
                deadline=replica.line.now() + TOO_LATE if replica.line.synchronized else 0.0,
            )
        return self._sent

    def answered(self, batch: Batch, *, late: bool) -> None:
        """Hear that a batch has been dealt with; a late answer to an earlier one clears nothing.

        What is late by the store's clock and not by ours is sent again: the store's clock has become another.
        """
        self.answers += 1
        if self._sent is batch:
            left = self._sent_until - self._circuit.clock()
            again = late and left > 0
            self._sent = replace(batch, deadline=self._circuit.replica.line.now() + left) if again else None

    def set(self, counts: Counts) -> None:
        """Take in the store's counts."""
        self._counts, self._counted_at = counts, self._circuit.clock()

    @property
    def known(self) -> Counts:
        """The store's last counts, unless they are out of the window."""
        fresh = self._circuit.clock() - self._counted_at <= self._circuit.policy.window
        return self._counts if fresh else Counts()

    @property
    def merged(self) -> Counts:
        """The store's last counts and all that it has not answered for."""
        counts = self._sent.run.after(self.known) if self._sent else self.known
        return self.tally.look().after(counts) if self.tally else counts

    @property
    def waiting(self) -> bool:
        """Whether there is anything to send."""
        return self._sent is not None or (self.tally is not None and self.tally.armed)
