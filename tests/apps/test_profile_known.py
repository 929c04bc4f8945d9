"""Which of several answers of auth's holds: in whatever order they are written down, never more than auth last gave."""

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.profile.clock import StoreClock
from apps.profile.known import MOST_AT_ONCE, Answer, Known, add, merge, served

ADMIN, READER = ("admin",), ("reader",)


def said(known: Known) -> object:
    """What may be said, however old it is: roles, or None."""
    found = served(known, 1000, inf)
    return found and found[0]


def test_later_answer_holds() -> None:
    """An answer asked for after another had arrived replaces it, whichever is written first."""
    before, after = Answer(ADMIN, 1, 2), Answer(READER, 3, 4)
    assert merge((), [before, after]) == merge((), [after, before]) == (after,)


def test_refusal_holds_against_what_was_asked_for_before_it() -> None:
    """A late answer that was asked for before a refusal had arrived does not bring back what was refused."""
    refusal, late = Answer(None, 5, 6), Answer(ADMIN, 5.9, 9)
    assert said(merge((), [refusal, late])) is said(merge((), [late, refusal])) is None


def test_recovers_however_many_overlap() -> None:
    """Under traffic in which some request is always under way, one round of answers after a change settles it."""
    known: Known = ()
    for i in range(100):  # each answer takes five times as long as the next question waits
        known = add(known, Answer(ADMIN if i < 50 else READER, i, i + 5))
        if i >= 56:
            assert said(known) == READER
    known = add(known, Answer(None, 98, 99))
    assert said(known) is None
    known = merge(known, [Answer(READER, i, i + 5) for i in range(96, 110)])
    assert said(known) == READER


def test_answers_that_overlap_and_differ_leave_nothing() -> None:
    """Of two that overlap nobody knows which auth gave last, so nothing may be said until a later one."""
    known = merge((), [Answer(ADMIN, 1, 3), Answer(READER, 2, 4)])
    assert said(known) is None
    assert said(add(known, Answer(READER, 3.1, 5))) == READER


def test_answers_that_agree_are_one() -> None:
    """Many at once that say the same are one answer, as young as the youngest and valid as the strictest says."""
    assert merge((), [Answer(ADMIN, 1, 4, 100), Answer(ADMIN, 2, 3, 90)]) == (Answer(ADMIN, 2, 4, 90),)


def test_too_many_that_differ_are_none() -> None:
    """What is kept of answers that overlap and differ is bounded; beyond that, nothing may be said."""
    known = merge((), [Answer((str(i),), 1, 10 + i) for i in range(MOST_AT_ONCE + 1)])
    assert known == (Answer(None, 1, 10 + MOST_AT_ONCE),)


spans = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6)
decisions = st.lists(st.sampled_from([ADMIN, READER, None]), min_size=29, max_size=29)


@given(spans, decisions, st.randoms(use_true_random=False))
def test_nothing_but_the_last_decision_is_ever_said(
    asked: list[tuple[int, int, int]], decided: list[tuple[str, ...] | None], rng: random.Random
) -> None:
    """However answers overlap, in whatever order replicas merge them: said is what auth decided last, or nothing.

    It decides at one moment between question and answer. After the last answer, one more settles it.
    """
    answers = [(at + wait, Answer(decided[at + wait], at, at + wait + back)) for at, wait, back in asked]
    truth = decided[max(moment for moment, _ in answers)]
    rng.shuffle(answers)
    parts: list[Known] = [(), (), ()]
    for _, answer in answers:
        chosen = rng.randrange(3)
        parts[chosen] = add(parts[chosen], answer)
    known = merge(merge(parts[0], parts[1]), parts[2])
    assert said(known) in (None, truth)
    assert said(add(known, Answer(READER, 99, 99))) == READER


@pytest.mark.parametrize(
    ("answer", "now", "expected"),
    [
        (Answer(ADMIN, 100, 101), 110, (ADMIN, 10, inf)),
        (Answer(ADMIN, 100, 101), 100 + 300, None),
        (Answer(None, 100, 101), 110, None),
        (Answer(ADMIN, 100, 101, 105), 104, (ADMIN, 4, 1)),
        (Answer(ADMIN, 100, 101, 105), 105, None),
        (Answer(ADMIN, 100, 101), 99.5, (ADMIN, 0, inf)),
        (Answer(ADMIN, 100, 101), 98, None),
    ],
)
def test_only_what_is_young_and_valid_is_served(answer: Answer, now: float, expected: object) -> None:
    """Served is what is younger than the setting, still valid by what auth said, and not of another clock's future."""
    assert served((answer,), now, 300) == expected


class Local:
    """Our monotonic clock, moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


@given(
    st.floats(-1e6, 1e6), st.floats(-5e-4, 5e-4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e5), st.floats(0, 9)
)
def test_redis_time_is_within_its_bounds(
    offset: float, drift: float, there: float, back: float, passed: float, took: float
) -> None:
    """However slow the exchange was, and however clocks drift, no answer is dated too late or its arrival too early."""
    local = Local()
    clock = StoreClock(local)
    sent = local.now

    def redis(at: float) -> float:
        return offset + (at - sent) * (1 + drift)

    assert clock.last is None
    local.now = sent + there + back
    clock.heard(sent, redis(sent + there))
    begin = local.now + passed
    mine, theirs = Answer(ADMIN, begin, begin + took), Answer(ADMIN, redis(begin), redis(begin + took))
    assert clock.there(mine).asked <= theirs.asked + 1e-6
    assert clock.there(mine).answered >= theirs.answered - 1e-6
    assert clock.here(theirs).asked <= mine.asked + 1e-6
    assert clock.here(theirs).answered >= mine.answered - 1e-6
    assert clock.there(mine).expires == inf
