"""When to open: strategies are small pure objects that look at counts and say trip or stay.

Your own is any frozen dataclass with `trips`:

    @dataclass(frozen=True)
    class FailuresOutweighSuccesses:
        by: int

        def trips(self, counts: Counts) -> bool:
            return counts.failures - (counts.calls - counts.failures) >= self.by

It must be pure (same counts, same answer), compare equal by value, and not block: it runs at every failure.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from commontrip import _check
from commontrip._counts import Counts


class Trip(Protocol):
    """When a circuit opens. May carry `slower_than` (s): calls that take longer count as slow."""

    def trips(self, counts: Counts) -> bool:
        """Say whether these counts, over the policy's window, open the circuit."""


@dataclass(frozen=True, slots=True)
class ConsecutiveFailures:
    """Open after `n` failures of the fleet in a row (1 to 1,000,000).

    "In a row" is as the batches arrived: within one replica exact, between replicas to 100 ms.
    A run ends with a success, or with a window in which nothing was counted.
    """

    n: int

    def __post_init__(self) -> None:
        _check.whole("ConsecutiveFailures.n", self.n, 1)

    def trips(self, counts: Counts) -> bool:
        """Whether the longest run reaches `n`."""
        return counts.streak >= self.n


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Open at `n` failures in the window (1 to 1,000,000), however many calls succeeded."""

    n: int

    def __post_init__(self) -> None:
        _check.whole("FailureCount.n", self.n, 1)

    def trips(self, counts: Counts) -> bool:
        """Whether the window holds `n` failures."""
        return counts.failures >= self.n


@dataclass(frozen=True, slots=True)
class FailureRate:
    """Open when `rate` (above 0, at most 1) of the window's calls failed, given `minimum_calls` (1 to 1,000,000)."""

    rate: float
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        _check.number("FailureRate.rate", self.rate, 0, 1, above=True)
        _check.whole("FailureRate.minimum_calls", self.minimum_calls, 1)

    def trips(self, counts: Counts) -> bool:
        """Whether enough calls were made and too many of them failed."""
        return counts.calls >= self.minimum_calls and counts.failures >= self.rate * counts.calls


@dataclass(frozen=True, slots=True)
class SlowCallRate:
    """Open when `rate` (above 0, at most 1) of the window's calls took longer than `slower_than` (s, above 0).

    A call that still hangs counts as slow from that moment on. Given `minimum_calls` (1 to 1,000,000).
    """

    rate: float
    slower_than: float
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        _check.number("SlowCallRate.rate", self.rate, 0, 1, above=True)
        _check.number("SlowCallRate.slower_than", self.slower_than, 0, 86_400, above=True)
        _check.whole("SlowCallRate.minimum_calls", self.minimum_calls, 1)

    def trips(self, counts: Counts) -> bool:
        """Whether enough calls were made and too many of them were slow."""
        return counts.calls >= self.minimum_calls and counts.slow >= self.rate * counts.calls


class _Several:
    """Strategies taken together."""

    __slots__ = ("strategies",)

    def __init__(self, *strategies: Trip) -> None:
        """Take at least one strategy; all that measure slowness must share one `slower_than`."""
        if not strategies:
            raise ValueError(f"{type(self).__name__} needs at least one strategy, not none")
        for strategy in strategies:
            check_trip(f"{type(self).__name__} of strategies, each of which", strategy)
        self.strategies = strategies
        slower_than(self)

    def __eq__(self, other: object) -> bool:
        """Equal by value, as every policy is."""
        return isinstance(other, _Several) and (type(self), self.strategies) == (type(other), other.strategies)

    def __hash__(self) -> int:
        return hash((type(self), self.strategies))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.strategies))})"


class AnyOf(_Several):
    """Open when one of the strategies says so."""

    __slots__ = ()

    def trips(self, counts: Counts) -> bool:
        """Whether any of them trips."""
        return any(strategy.trips(counts) for strategy in self.strategies)


class AllOf(_Several):
    """Open when all of the strategies say so."""

    __slots__ = ()

    def trips(self, counts: Counts) -> bool:
        """Whether all of them trip."""
        return all(strategy.trips(counts) for strategy in self.strategies)


def check_trip(what: str, strategy: Any) -> None:
    """Raise unless it is a strategy."""
    proper = callable(getattr(strategy, "trips", None)) and not isinstance(strategy, type)
    _check.that(proper, what, "a strategy with a method trips(counts)", strategy)


def slower_than(strategy: object) -> float | None:
    """Return the time (s) from which calls count as slow, None if nothing asks; two times are a `ValueError`."""
    if isinstance(strategy, _Several):
        found = {slower_than(one) for one in strategy.strategies} - {None}
        if len(found) > 1:
            raise ValueError(f"one breaker has one count of slow calls; slower_than differs: {sorted(map(str, found))}")
        return found.pop() if found else None
    seconds = getattr(strategy, "slower_than", None)
    return None if seconds is None else _check.number("slower_than", seconds, 0, 86_400, above=True)
