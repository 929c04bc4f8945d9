"""Policies: what they decide, and that a wrong one is refused where it is written."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commontrip import (
    AllOf,
    AnyOf,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    Counts,
    FailureCount,
    FailureRate,
    Outcome,
    Policy,
    SlowCallRate,
    State,
    SuccessRatio,
)
from commontrip._recover import grid

NAN, INFINITE = float("nan"), float("inf")


# -- wrong arguments


@dataclass(frozen=True)
class Judge:
    """A recovery strategy that says what it is told to."""

    probes: Any = 2
    says: Any = State.CLOSED

    def verdict(self, successes: int, failures: int) -> Any:
        """Say it once all have settled, before that as well if it is no verdict."""
        return self.says if successes + failures == self.probes or self.says != State.CLOSED else None


@dataclass(frozen=True)
class Undecided:
    """A recovery strategy that says something wrong before all probes have settled."""

    probes: int = 2

    def verdict(self, successes: int, failures: int) -> Any:
        """Decide properly at the end only."""
        return State.OPEN if successes + failures == 2 else "perhaps"


class NoProbes:
    """A recovery strategy without a number of probes."""

    def verdict(self, *_: int) -> State:
        """Decide."""
        return State.OPEN


def _rate(**changed: Any) -> FailureRate:
    return FailureRate(**{"rate": 0.5} | changed)


def _slow(**changed: Any) -> SlowCallRate:
    return SlowCallRate(**{"rate": 0.5, "slower_than": 1.0} | changed)


_COUNTS = [0, -1, 1.5, True, "3", None, 1_000_001]
_RATES = [0, -0.1, 1.01, NAN, INFINITE, True, "0.5", None]
_WRONG: list[tuple[Callable[..., object], str, str, list[Any]]] = [
    (ConsecutiveFailures, "ConsecutiveFailures.n", "1 to 1000000", _COUNTS),
    (FailureCount, "FailureCount.n", "1 to 1000000", _COUNTS),
    (_rate, "FailureRate.rate", "above 0.* 1", _RATES),
    (_rate, "FailureRate.minimum_calls", "1 to 1000000", _COUNTS),
    (_slow, "SlowCallRate.rate", "above 0.* 1", _RATES),
    (_slow, "SlowCallRate.slower_than", "above 0.* 86400", [0, -1, 86_401, NAN, INFINITE, True, "1", None]),
    (_slow, "SlowCallRate.minimum_calls", "1 to 1000000", _COUNTS),
    (SuccessRatio, "SuccessRatio.ratio", "above 0.* 1", _RATES),
    (SuccessRatio, "SuccessRatio.probes", "1 to 50", [0, 51, 2.0, True, "5", None]),
    (Cooldown, "Cooldown.initial", "0.01.* 86400", [0, 0.009, 86_401, NAN, INFINITE, True, "30", None]),
    (Cooldown, "Cooldown.factor", "1.* 100", [0.99, 101, NAN, "2"]),
    (Cooldown, "Cooldown.maximum", "30.* 86400", [29.9, 86_401, NAN, INFINITE, "300"]),
    (Cooldown, "Cooldown.jitter", "0.* 0.5", [-0.01, 0.51, NAN, "0.1"]),
    (Policy, "Policy.window", "0.1.* 86400", [0, 0.09, 86_401, NAN, INFINITE, True, "10", None]),
    (Policy, "Policy.probe_lease", "0.1.* 3600", [0.09, 3_601, NAN, "5"]),
    (Policy, "Policy.probe_limit", "5.* 86400", [4.9, 86_401, NAN, "30"]),
    (Policy, "Policy.cooldown", "a Cooldown", [30, None, Cooldown]),
    (Policy, "Policy.classify", "a Classify", [(KeyError,), None, Classify]),
    (Policy, "Policy.trip", "trips", [None, 5, "FailureRate", ConsecutiveFailures]),
    (Policy, "Policy.recover", "verdict", [None, 5, "SuccessRatio"]),
    (Classify, "Classify.failures", "tuple of Exception", [[KeyError], KeyError, ("x",), (BaseException,), None]),
    (Classify, "Classify.ignored", "tuple of Exception", [[KeyError], (KeyboardInterrupt,), (KeyError(),), None]),
    (Classify, "Classify.slow", "tuple of Exception", [{TimeoutError}, (int,), None]),
    (Classify, "Classify.result", "callable", [5, "f"]),
    (Classify, "Classify.retry_after", "callable", [None, 30]),
]


@pytest.mark.parametrize(
    ("make", "name", "bounds", "wrong"),
    [
        pytest.param(make, name, bounds, value, id=f"{name}={value!r:.30}")
        for make, name, bounds, values in _WRONG
        for value in values
    ],
)
def test_wrong_arguments(make: Callable[..., object], name: str, bounds: str, wrong: object) -> None:
    """A wrong argument is a ValueError in the constructor that names it, its value and its range."""
    owner, argument = name.split(".")
    says = rf"^{owner}\..*\b{argument}\b.* must .*{bounds}"
    with pytest.raises(ValueError, match=says) as caught:
        make(**{argument: wrong})
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    ("recover", "says"),
    [
        (Judge(probes=0), "Policy.recover.probes must be a whole number from 1 to 50, not 0"),
        (Judge(probes=2.0), "Policy.recover.probes must be a whole number from 1 to 50, not 2.0"),
        (Judge(says=None), r"Policy.recover must decide when all 2 probes have settled; .* 0 successes"),
        (Judge(says="CLOSE"), r"Policy.recover must"),
        (Judge(says=State.HALF_OPEN), r"Policy.recover must"),
        (Undecided(), r"Policy.recover must"),
        (NoProbes(), r"Policy.recover.* must .*"),
    ],
)
def test_a_recovery_that_never_decides_is_refused(recover: Any, says: str) -> None:
    """A recovery strategy that could leave a round undecided, or says what is no verdict, is refused."""
    with pytest.raises(ValueError, match=says):
        Policy(recover=recover)


@pytest.mark.parametrize("several", [AnyOf, AllOf])
def test_wrong_combinations(several: Callable[..., object]) -> None:
    """No strategy at all, and two measures of slowness, are refused."""
    with pytest.raises(ValueError, match=f"{several.__name__} needs at least one strategy"):
        several()
    with pytest.raises(ValueError, match=r"slower_than differs: \['1.0', '2.0'\]"):
        several(SlowCallRate(0.5, 1.0), AnyOf(ConsecutiveFailures(1), SlowCallRate(0.5, 2.0)))


@pytest.mark.parametrize("wrong", [5, None, ConsecutiveFailures])
@pytest.mark.parametrize("several", [AnyOf, AllOf])
def test_only_strategies_can_be_combined(several: Callable[..., object], wrong: object) -> None:
    """What is no strategy is refused where it is combined."""
    with pytest.raises(ValueError, match=rf"{several.__name__} .*trips") as caught:
        several(ConsecutiveFailures(2), wrong)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("wrong", [0, -1, NAN, "1", True])
def test_a_wrong_slowness_of_ones_own_is_refused(wrong: object) -> None:
    """A strategy of one's own with a senseless `slower_than` is refused by the policy."""

    class Slow:
        slower_than = wrong

        def trips(self, counts: Counts) -> bool:
            return counts.slow > 1

    with pytest.raises(ValueError, match="slower_than must be a number above 0"):
        Policy(trip=Slow())


# -- when to trip


@pytest.mark.parametrize(
    ("strategy", "trips", "stays"),
    [
        (ConsecutiveFailures(3), Counts(9, 5, 0, 3, 0), Counts(9, 9, 0, 2, 2)),
        (FailureCount(3), Counts(100, 3), Counts(3, 2)),
        (FailureRate(0.5, 10), Counts(10, 5), Counts(9, 9)),
        (FailureRate(0.5, 10), Counts(12, 6), Counts(12, 5)),
        (FailureRate(1.0, 1), Counts(1, 1), Counts(2, 1)),
        (FailureRate(0.1, 1), Counts(10, 1), Counts(11, 1)),
        (SlowCallRate(0.5, 1.0, 10), Counts(10, 0, 5), Counts(9, 0, 9)),
        (SlowCallRate(0.5, 1.0, 10), Counts(12, 12, 6), Counts(12, 12, 5)),
        (AnyOf(FailureCount(3), FailureRate(0.5, 2)), Counts(2, 1), Counts(5, 2)),
        (AllOf(FailureCount(3), FailureRate(0.5, 2)), Counts(4, 3), Counts(2, 2)),
    ],
)
def test_strategies(strategy: Any, trips: Counts, stays: Counts) -> None:
    """A strategy trips at its threshold and stays just below it."""
    assert strategy.trips(trips)
    assert not strategy.trips(stays)


def test_nothing_counted_never_trips() -> None:
    """Without calls there is nothing to trip on, whatever the strategy."""
    strategies = [ConsecutiveFailures(1), FailureCount(1), FailureRate(0.01, 1), SlowCallRate(0.01, 1.0, 1)]
    assert not AnyOf(*strategies).trips(Counts())


def test_combinations_equal_by_value() -> None:
    """Two policies of the same parts are the same policy; the kind of combination and the order matter."""
    one, other = (AnyOf(FailureCount(3), ConsecutiveFailures(2)) for _ in range(2))
    assert (one, hash(one)) == (other, hash(other))
    assert one != AllOf(FailureCount(3), ConsecutiveFailures(2))
    assert one != AnyOf(FailureCount(3))
    assert one != FailureCount(3)
    assert repr(one) == "AnyOf(FailureCount(n=3), ConsecutiveFailures(n=2))"
    assert Policy(trip=one) == Policy(trip=other)


@dataclass(frozen=True)
class FailuresOutweighSuccesses:
    """A strategy of one's own, as in the docs."""

    by: int

    def trips(self, counts: Counts) -> bool:
        """Compare failures with successes."""
        return counts.failures - (counts.calls - counts.failures) >= self.by


def test_a_strategy_of_ones_own() -> None:
    """A ten-line class with `trips` is a strategy, alone or combined."""
    assert Policy(trip=FailuresOutweighSuccesses(2)).trip.trips(Counts(4, 3))
    assert not AllOf(FailuresOutweighSuccesses(2), FailureCount(9)).trips(Counts(4, 3))
    assert Policy(trip=FailuresOutweighSuccesses(2)) == Policy(trip=FailuresOutweighSuccesses(2))


def test_slowness_is_the_strategys() -> None:
    """A policy knows what is slow if its strategy, or one inside it, says so."""
    assert Policy().slower_than is None
    assert Policy(trip=SlowCallRate(0.5, 1.5)).slower_than == 1.5
    assert Policy(trip=AnyOf(FailureCount(3), AllOf(SlowCallRate(0.5, 2), SlowCallRate(0.9, 2)))).slower_than == 2


# -- when to close


@pytest.mark.parametrize(
    ("recover", "rows"),
    [
        (SuccessRatio(1.0, 1), [".o", "c."]),
        (SuccessRatio(1.0, 2), [".oo", ".o.", "c.."]),
        (SuccessRatio(0.5, 2), ["..o", "cc.", "c.."]),
        (SuccessRatio(0.6, 5), ["...ooo", "...oo.", "...o..", "ccc...", "cc....", "c....."]),
        (SuccessRatio(0.01, 3), ["...o", "ccc.", "cc..", "c..."]),
    ],
)
def test_the_grid_lays_every_verdict_out(recover: SuccessRatio, rows: list[str]) -> None:
    """Row by successes and column by failures, the grid closes at the ratio and opens once it is out of reach."""
    assert grid(recover) == "".join(rows)


@given(st.floats(0.001, 1.0), st.integers(1, 50))
def test_every_round_ends(ratio: float, probes: int) -> None:
    """Whatever the ratio and the outcomes, a full round has a verdict, and no verdict is taken back."""
    recover = SuccessRatio(ratio, probes)
    for successes in range(probes + 1):
        failures = probes - successes
        verdict = recover.verdict(successes, failures)
        assert (verdict is State.CLOSED) == (successes >= ratio * probes - 1e-6)
        assert verdict is not None
        earlier = {recover.verdict(s, f) for s in range(successes + 1) for f in (0, failures) if s or f}
        assert verdict is State.CLOSED or State.CLOSED not in earlier


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.6, 0.7])
def test_a_ratio_is_not_missed_by_rounding(share: float) -> None:
    """A ratio of tenths is reached by that many of ten, not by one more."""
    assert SuccessRatio(share, 10).verdict(round(share * 10), 0) is State.CLOSED
    assert SuccessRatio(share, 10).verdict(round(share * 10) - 1, 0) is None


# -- how long


def test_a_cooldown_grows_to_its_maximum() -> None:
    """Each time in a row is longer by the factor, up to the maximum, also after a million times."""
    cooldown = Cooldown(1.0, 2.0, 60.0, 0.0)
    assert [cooldown.after(opens) for opens in (1, 2, 3, 6, 7, 8)] == [1, 2, 4, 32, 60, 60]
    assert cooldown.after(1_000_000) == 60
    assert Cooldown(1, 100, 60, 0).after(1_000_000) == 60


def test_a_cooldown_is_as_quick_to_tell_however_often_it_came() -> None:
    """Whole numbers make no huge ones, and what no float can hold is the maximum."""
    began = time.process_time()
    assert [Cooldown(1, 3, 60, 0).after(opens) for opens in (2, 3, 30_000_000)] == [3, 9, 60]
    assert time.process_time() - began < 0.2


def test_a_constant_cooldown_stays() -> None:
    """With a factor of 1 every cooldown is the first."""
    assert Cooldown(5.0, 1.0, 5.0, 0.0).after(1_000_000) == 5.0


@given(st.floats(0.01, 100.0), st.floats(0.0, 0.5), st.integers(1, 40))
def test_jitter_stays_within_its_bounds(initial: float, jitter: float, opens: int) -> None:
    """Jitter makes a cooldown longer or shorter by its share, and never longer than the maximum."""
    cooldown = Cooldown(initial, 1.5, 150.0, jitter)
    planned = replace(cooldown, jitter=0.0).after(opens)
    seconds = cooldown.after(opens)
    assert planned * (1 - jitter) - 1e-9 <= seconds <= min(150.0, planned * (1 + jitter) + 1e-9)


def test_jitter_spreads() -> None:
    """Many breakers that open at once do not probe at once."""
    seconds = [Cooldown(100.0, 1, 200.0, 0.5).after(1) for _ in range(400)]
    assert min(seconds) < 60
    assert max(seconds) > 140
    assert 90 < statistics.mean(seconds) < 110


def test_retry_after_lengthens_and_never_shortens() -> None:
    """A Retry-After lengthens a cooldown up to the maximum, and never shortens it."""
    cooldown = Cooldown(10.0, 1, 60.0, 0.0)
    assert [cooldown.after(1, asked) for asked in (0.0, 5.0, 30.0, 3600.0)] == [10, 10, 30, 60]


# -- what counts


class Odd(BaseException):
    """Neither an exception nor one of those by which a caller leaves."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError(), Outcome.FAILURE),
        (KeyError(), Outcome.IGNORED),
        (TimeoutError(), Outcome.SLOW),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (KeyboardInterrupt(), Outcome.CANCELLED),
        (SystemExit(), Outcome.CANCELLED),
        (GeneratorExit(), Outcome.CANCELLED),
        (Odd(), Outcome.IGNORED),
        (OSError(), Outcome.IGNORED),
    ],
)
def test_classification(error: BaseException, outcome: Outcome) -> None:
    """The first group that fits decides; what is in none is ignored, and a caller who leaves is neutral."""
    classify = Classify(failures=(ValueError, LookupError), ignored=(KeyError,), slow=(TimeoutError, KeyError))
    assert classify.kind(error) is outcome


def test_every_exception_is_a_failure_by_default() -> None:
    """Without settings exceptions are failures, and values are not looked at."""
    assert Classify().kind(OSError()) is Outcome.FAILURE
    assert not Classify().looks_at_values
    assert Classify(result=lambda _: None).looks_at_values
    assert Classify(retry_after=lambda _: None).looks_at_values


def test_policies_are_values() -> None:
    """A policy cannot be changed, and equals another of the same settings."""
    assert Policy() == Policy()
    assert Policy(window=5) != Policy()
    with pytest.raises(FrozenInstanceError):
        Policy().window = 5
