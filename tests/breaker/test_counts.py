"""Counting: batches added up equal calls counted one by one, in whatever order and however cut (race 25)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commontrip import Counts
from commontrip._counts import Run, Tally

CALLS = st.text("fsS", max_size=60)
"""One letter a call: `f` failed, `s` succeeded, `S` succeeded slowly."""


def one_by_one(calls: str) -> Counts:
    """Count as if every call went to the store alone."""
    counts = Counts()
    for call in calls:
        run = counts.run + 1 if call == "f" else 0
        counts = Counts(
            counts.calls + 1,
            counts.failures + (call == "f"),
            counts.slow + (call == "S"),
            max(counts.streak, run),
            run,
        )
    return counts


def enter(tally: Tally, calls: str) -> None:
    """Let a tally see the calls."""
    for call in calls:
        if call == "f":
            tally.fail("Boom")
        else:
            tally.slow += call == "S"
            tally.succeed()


def cut(calls: str, places: list[int]) -> list[str]:
    """Cut the calls into batches, some of them empty."""
    edges = [0, *sorted(place % (len(calls) + 1) for place in places), len(calls)]
    return [calls[start:end] for start, end in pairwise(edges)]


@given(CALLS, st.lists(st.integers(0, 60), max_size=12))
def test_batches_equal_the_one_by_one_count(calls: str, places: list[int]) -> None:
    """However the calls are cut into batches, counts, run and longest streak come out the same (race 25)."""
    tally, counts = Tally(lambda _: None), Counts()
    for batch in cut(calls, places):
        enter(tally, batch)
        counts = tally.take().after(counts)
    assert counts == one_by_one(calls)


@given(CALLS, CALLS)
def test_a_look_equals_a_take(earlier: str, calls: str) -> None:
    """Looking at a tally takes nothing from it, and after a take it begins anew."""
    tally = Tally(lambda _: None)
    enter(tally, earlier)
    tally.take()
    enter(tally, calls)
    look = tally.look()
    assert look == tally.look() == tally.take()
    assert look.after(Counts()) == one_by_one(calls)
    assert not tally.take()


@given(CALLS)
def test_a_batch_says_its_last_error_and_longest_retry_after(calls: str) -> None:
    """A batch carries the type of its last failure, and the longest time that the dependency asked for."""
    tally = Tally(lambda _: None)
    for number, call in enumerate(calls):
        if call == "f":
            tally.fail(f"Error{number}", float(number % 7))
        else:
            tally.succeed()
    failed = [number for number, call in enumerate(calls) if call == "f"]
    run = tally.take()
    assert run.error == (f"Error{failed[-1]}" if failed else "")
    assert run.retry_after == max([float(number % 7) for number in failed], default=0.0)


def test_a_success_hides_nothing() -> None:
    """The longest streak stays although a success came after it (race 26)."""
    tally = Tally(lambda _: None)
    enter(tally, "fffs")
    assert tally.take().after(Counts()) == Counts(4, 3, 0, 3, 0)


def test_a_call_that_hung_and_failed_counts_once() -> None:
    """A call that was counted as slow while it hung and then fails is one call, slow and failed."""
    tally = Tally(lambda _: None)
    enter(tally, "S")
    tally.fail("Boom", counted=True)
    run = tally.take()
    assert (run.calls, run.failures, run.slow) == (1, 1, 1)


def test_a_batch_may_hold_a_failure_without_a_call() -> None:
    """When a hanging call fails after its slowness was sent, the failure alone is still sent."""
    tally = Tally(lambda _: None)
    tally.fail("Boom", counted=True)
    run = tally.take()
    assert (bool(run), run.calls, run.failures) == (True, 0, 1)


def test_a_tally_arms_once_until_it_is_taken() -> None:
    """Whoever sends is told of the first outcome, and again of the first after each take."""
    armed = []

    def arm(tally: Tally) -> None:
        tally.armed = True
        armed.append(tally)

    tally = Tally(arm)
    enter(tally, "sfs")
    assert armed == [tally]
    tally.take()
    enter(tally, "fs")
    assert armed == [tally, tally]


@pytest.mark.parametrize(
    ("counts", "failed", "slow"),
    [(Counts(), 0.0, 0.0), (Counts(4, 1, 2), 0.25, 0.5), (Counts(3, 3, 3), 1.0, 1.0)],
)
def test_rates(counts: Counts, failed: float, slow: float) -> None:
    """Rates are shares of the calls, 0 without any."""
    assert (counts.failure_rate, counts.slow_rate) == (failed, slow)


def test_an_empty_run_is_false() -> None:
    """There is something to send if anything was counted."""
    assert not Run()
    assert all([Run(calls=1), Run(failures=1), Run(slow=1)])
