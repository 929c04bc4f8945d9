"""The record: what is written of a transition can be read again, and nothing else can."""

import contextlib
import logging
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commontrip import Applied, Override, State, Transition
from commontrip._listener import LogListener
from commontrip._transition import FIELDS, Epoch, parse, token, word

HEX = st.text("0123456789abcdef", min_size=1, max_size=16)
TIMES = st.integers(0, 10**13).map(lambda ms: ms / 1000)
WORDS = st.text(string.ascii_letters + string.digits + ".:_", max_size=20).filter(lambda text: text != "-")

TRANSITIONS = st.builds(
    Transition,
    epoch=st.builds(Epoch, HEX, st.integers(0, 10**15), HEX),
    state=st.sampled_from(State),
    since=TIMES,
    until=TIMES,
    cooldown=TIMES,
    opens=st.integers(0, 10**6),
    override=st.none() | st.sampled_from(Override),
    override_until=TIMES,
    reason=st.sampled_from(["tripped", "external", "reasserted"]),
    replica=WORDS,
    failures=st.integers(0, 10**15),
    calls=st.integers(0, 10**15),
    previous=st.just("") | st.builds(lambda *parts: str(Epoch(*parts)), HEX, st.integers(0, 99), HEX),
    previous_state=st.none() | st.sampled_from(State),
    previous_since=TIMES,
    error=WORDS,
    cause=WORDS,
)


@given(TRANSITIONS)
def test_a_record_can_be_read_again(transition: Transition) -> None:
    """Parsing a record gives the transition that it was made from."""
    assert parse(transition.record()) == transition


@given(TRANSITIONS, st.text(max_size=30), st.text(max_size=300))
def test_no_text_breaks_a_record(transition: Transition, error: str, cause: str) -> None:
    """Whatever a name or an error holds, the record stays one line of its fields."""
    made = Transition(
        **{name: getattr(transition, name) for name in Transition.__slots__}
        | {"error": error, "cause": cause, "replica": error}
    )
    record = made.record()
    assert re.fullmatch("[ -~]+", record)
    assert parse(record).epoch == made.epoch
    assert parse(record).record() == record


@pytest.mark.parametrize("field", ["reason", "replica", "error", "cause", "previous"])
@pytest.mark.parametrize("evil", ["a\nERROR b", "\x1b[2Jc", "d\re", "f\u2028g", "h\u202ei"])
def test_a_forged_record_stays_one_harmless_line_in_the_log(
    field: str, evil: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may publish may write anything into a record; no line break, escape or mark of it reaches a log."""
    caplog.set_level(logging.INFO, "commontrip")
    made = Transition(epoch=Epoch("ab", 1, "cd"), state=State.OPEN, since=1.0, reason="tripped")
    fields = dict(zip(FIELDS, made.record().split(" "), strict=True)) | {field: evil.replace(" ", "_")}
    forged = parse(" ".join(fields.values()))
    LogListener().on_transition(Applied(breaker="auth", transition=forged, made=False, applied_at=1.0))
    [record] = caplog.records
    said = [record.getMessage(), forged.reason, forged.replica, forged.error, forged.cause, forged.previous]
    assert all(re.fullmatch("[ -~]*", text) for text in said), said


@given(st.text(max_size=80))
def test_garbage_is_a_value_error(text: str) -> None:
    """What is no record is a ValueError and no other."""
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@given(TRANSITIONS, st.integers(0, 30), st.sampled_from(["", "-", "x", "open", "1.5", "-1", "é"]))
def test_a_wrong_field_is_a_value_error(transition: Transition, at: int, wrong: str) -> None:
    """A record in which one field is wrong is either read or a ValueError, and too many fields are one."""
    words = transition.record().split(" ")
    words[at % len(words)] = wrong
    with contextlib.suppress(ValueError):
        parse(" ".join(words))
    with pytest.raises(ValueError, match="fields"):
        parse(" ".join([*words, "more"]))


@given(TRANSITIONS, st.sampled_from([2, 3, 4, 7, 14]))
def test_a_number_without_end_is_a_value_error(transition: Transition, place: int) -> None:
    """A time that is too long for any number, as only people write it, is a ValueError."""
    fields = transition.record().split(" ")
    fields[place] = 400 * "9"
    with pytest.raises(ValueError, match="at most 300 characters"):
        parse(" ".join(fields))


@given(TRANSITIONS, st.sampled_from([2, 3, 4, 5, 7, 10, 11, 14]), st.sampled_from([str(10**15 + 1), "1_0", "\u0663"]))
def test_what_the_scripts_do_not_take_is_a_value_error(transition: Transition, place: int, number: str) -> None:
    """A number above the largest, or in other than plain digits, is a ValueError."""
    fields = transition.record().split(" ")
    fields[place] = number
    with pytest.raises(ValueError, match="in digits and at most"):
        parse(" ".join(fields))


@pytest.mark.parametrize(
    "text", ["", "a", "a.1", "a.1.", ".1.b", "a.x.b", "a.1.b.c", "A.1.b", "a.-1.b", "a.1.b\n", " a.1.b"]
)
def test_what_is_no_epoch(text: str) -> None:
    """An epoch is incarnation, number and token; anything else is a ValueError that shows it."""
    with pytest.raises(ValueError, match=r"an epoch is incarnation.number.token"):
        Epoch.parse(text)


def test_an_epoch_is_its_text() -> None:
    """An epoch can be written and read."""
    assert str(Epoch("ab", 7, "cd")) == "ab.7.cd"
    assert Epoch.parse("ab.7.cd") == Epoch("ab", 7, "cd")


@pytest.mark.parametrize("number", [0, 1, 9])
def test_only_number_0_is_a_seed(number: int) -> None:
    """A seed is what remembers nothing."""
    assert Transition(epoch=Epoch("ab", number, "cd"), state=State.CLOSED, since=0.0).is_seed == (number == 0)


def test_tokens_differ() -> None:
    """No two tokens are the same, and each can be part of an epoch."""
    tokens = {token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(Epoch.parse(f"{one}.0.{one}") for one in tokens)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", "-"), ("TimeoutError", "TimeoutError"), ("a b\nc", "a_b_c"), ("ключ", "____")],
)
def test_words_fit_a_record(text: str, kept: str) -> None:
    """A word has no blanks and no control characters, is not empty and not long."""
    assert word(text) == kept


def test_a_word_is_not_long() -> None:
    """Of a long text the beginning is kept, so that a record stays one short line."""
    kept = word(999 * "x")
    assert 50 <= len(kept) <= 200
    assert set(kept) == {"x"}
