"""When to close again: a strategy looks at the tally of a round of probes and says close, open, or go on."""

from dataclasses import dataclass
from math import ceil
from typing import Protocol

from commontrip import _check
from commontrip._state import State


class Recover(Protocol):
    """How a round of probes ends. `probes` (1 to 50) is the fleet's budget for one round."""

    @property
    def probes(self) -> int:
        """Probes in one round, all of which may be in flight at once."""

    def verdict(self, successes: int, failures: int) -> State | None:
        """Say CLOSED, OPEN, or None to go on; pure, and never None once all probes have settled."""


@dataclass(frozen=True, slots=True)
class SuccessRatio:
    """Close when `ratio` (above 0, at most 1) of the `probes` (1 to 50) succeeded; re-open once out of reach."""

    ratio: float = 0.6
    probes: int = 5

    def __post_init__(self) -> None:
        _check.number("SuccessRatio.ratio", self.ratio, 0, 1, above=True)
        _check.whole("SuccessRatio.probes", self.probes, 1, 50)

    def verdict(self, successes: int, failures: int) -> State | None:
        """Compare with the ratio of the planned probes, not of those done."""
        needed = ceil(self.ratio * self.probes - 1e-9)
        if successes >= needed:
            return State.CLOSED
        return State.OPEN if failures > self.probes - needed else None


def grid(recover: Recover) -> str:
    """Lay out the verdict for every tally, so that the store counts and decides in one step.

    Row s, column f of a square of side probes + 1: `c` close, `o` open, `.` go on, also beyond the planned probes.
    A strategy that says anything else, or nothing when all probes have settled, is a `ValueError`.
    """
    side = range(_check.whole("Policy.recover.probes", getattr(recover, "probes", None), 1, 50) + 1)
    return "".join(_letter(recover, succeeded, failed) for succeeded in side for failed in side)


def _letter(recover: Recover, succeeded: int, failed: int) -> str:
    left = recover.probes - succeeded - failed
    verdict = recover.verdict(succeeded, failed) if left >= 0 else None
    if verdict not in (State.CLOSED, State.OPEN, None) or (verdict is None and left == 0):
        raise ValueError(
            f"Policy.recover must decide when all {recover.probes} probes have settled; "
            f"{recover!r} says {verdict!r} for {succeeded} successes and {failed} failures"
        )
    return {State.CLOSED: "c", State.OPEN: "o"}.get(verdict, ".") if verdict else "."
