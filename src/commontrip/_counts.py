"""How outcomes are counted: `Counts` is what a strategy looks at, `Tally` what one replica has not sent.

Streaks of failures travel as a monoid (first run, longest run, last run), so that adding batches
gives the same peak as counting one call after another.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes of one epoch, over the policy's window.

    A call that failed and was slow counts in both. `streak` is the longest run of failures seen in the
    window, not only the current one: a success that arrives before the decision hides nothing.
    """

    calls: int = 0
    failures: int = 0
    slow: int = 0
    streak: int = 0
    run: int = 0
    """The current run of failures."""

    @property
    def failure_rate(self) -> float:
        """Failures per call, 0 to 1; 0 without calls."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Slow calls per call, 0 to 1; 0 without calls."""
        return self.slow / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """Outcomes in the order they came, summed up. Empty without calls and failures."""

    calls: int = 0
    failures: int = 0
    slow: int = 0
    first: int = 0
    """Failures before the first success (all of them, if there was none)."""
    longest: int = 0
    last: int = 0
    """Failures after the last success."""
    unbroken: bool = True
    """There was no success."""
    retry_after: float = 0.0
    """The longest that the dependency asked to be left alone, in seconds."""
    error: str = ""
    """The type of the last failure."""

    def __bool__(self) -> bool:
        """Whether there is anything to count."""
        return bool(self.calls or self.failures or self.slow)

    def after(self, counts: Counts) -> Counts:
        """Return `counts` with these outcomes added."""
        return Counts(
            calls=counts.calls + self.calls,
            failures=counts.failures + self.failures,
            slow=counts.slow + self.slow,
            streak=max(counts.streak, counts.run + self.first, self.longest),
            run=counts.run + self.last if self.unbroken else self.last,
        )


class Tally:
    """What the calls of one epoch did since the last batch.

    A call takes the tally of its epoch when it is admitted and writes to it when it ends. A transition
    puts another tally in its place, so that old news lands where nobody reads it.
    """

    __slots__ = (
        "_arm",
        "armed",
        "bad",
        "error",
        "first",
        "late",
        "longest",
        "ok",
        "retry_after",
        "run",
        "seen_ok",
        "slow",
    )

    def __init__(self, arm: Callable[["Tally"], None]) -> None:
        """Start empty; `arm` is called at the first outcome after each `take`."""
        self._arm = arm
        self.armed = False
        self._clear()

    def _clear(self) -> None:
        self.ok = 0  # the hot path adds to this one without a call
        self.bad = 0
        self.slow = 0
        self.late = 0  # failures of calls that were counted while they hung
        self.first = self.longest = self.run = 0
        self.seen_ok = 0  # `ok` at the last failure: tells a run from two
        self.retry_after = 0.0
        self.error = ""

    def arm(self) -> None:
        """Say that there is something to send."""
        self._arm(self)

    def succeed(self) -> None:
        """Count a success."""
        self.ok += 1
        if not self.armed:
            self._arm(self)

    def fail(self, error: str, retry_after: float = 0.0, *, counted: bool = False) -> None:
        """Count a failure; `counted` if the call was counted as slow before it ended."""
        if self.ok == 0:
            self.first += 1
        if self.ok != self.seen_ok:
            self.run, self.seen_ok = 0, self.ok
        self.run += 1
        self.longest = max(self.longest, self.run)
        self.bad += 1
        self.late += counted
        self.error = error
        self.retry_after = max(self.retry_after, retry_after)
        if not self.armed:
            self._arm(self)

    def look(self) -> Run:
        """Sum up what has not been taken."""
        return Run(
            calls=self.ok + self.bad - self.late,
            failures=self.bad,
            slow=self.slow,
            first=self.first,
            longest=self.longest,
            last=self.run if self.ok == self.seen_ok else 0,
            unbroken=self.ok == 0,
            retry_after=self.retry_after,
            error=self.error,
        )

    def take(self) -> Run:
        """Sum up and start again."""
        run = self.look()
        self._clear()
        self.armed = False
        return run
