"""The epoch record: one line in the store that says what the last transition was, and so what holds now."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache

from commontrip._state import Override, Reason, State

FIELDS = (
    "epoch", "state", "since", "until", "cooldown", "opens", "override", "override_until", "reason", "replica",
    "failures", "calls", "previous", "previous_state", "previous_since", "error", "cause",
)  # fmt: skip
"""The record's fields in order; times in ms, `-` for an empty one. `lua/common.lua` knows the same."""

LARGEST, MOST_OPENS = 10**15, 10**6
"""The largest number in a record, and how often in a row it says at most that a circuit has opened."""

# What people write may be anything. `lua/common.lua` has the same limits, so that what is garbage there is so here.
_LONGEST_RECORD, _LONGEST = 1000, 300  # characters of a record, of a field
_EPOCH = re.compile(r"([0-9a-f]{1,64})\.(0|[1-9][0-9]{0,15})\.([0-9a-f]{1,64})")


def token() -> str:
    """Mint what makes a transition, an incarnation or a lease one of a kind."""
    return secrets.token_hex(8)


def span_ids(breaker: str, epoch: str, observer: str = "") -> tuple[int, int]:
    """Return trace and span id of a transition, or of its observation by another replica.

    The same for everyone who knows breaker and epoch, in every release: a span sent twice is one span.
    """
    trace_id = hashlib.sha256(f"{breaker} {epoch}".encode()).digest()
    span_id = hashlib.sha256(f"{breaker} {epoch} {observer}".encode()).digest()
    return int.from_bytes(trace_id[:16]), int.from_bytes(span_id[16:24])


def word(text: str) -> str:
    """Make a text fit for one field of a record: no blanks, no control characters, not empty, not long."""
    return _tame(text)[:100] or "-"


def _tame(text: str) -> str:
    return re.sub(r"[^!-~]", "_", text)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Which transition: the incarnation of the keys, its number there, and a token that no other transition has."""

    incarnation: str
    number: int
    token: str

    def __str__(self) -> str:
        """Return the form in which it is stored."""
        return f"{self.incarnation}.{self.number}.{self.token}"

    @classmethod
    def parse(cls, text: str) -> "Epoch":
        """Read the stored form; anything else is a `ValueError`."""
        match = _EPOCH.fullmatch(text)
        if not match or int(match[2]) > LARGEST:
            raise ValueError(f"an epoch is incarnation.number.token, not {text!r}")
        return cls(match[1], int(match[2]), match[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state in the fleet, and the state since. Times are Unix seconds by the store's clock."""

    epoch: Epoch
    state: State
    since: float
    until: float = 0.0
    """When the cooldown is over; 0 unless OPEN."""
    cooldown: float = 0.0
    """Seconds; the longest that anything said here may last."""
    opens: int = 0
    """How often in a row it has opened."""
    override: Override | None = None
    override_until: float = 0.0
    reason: str = Reason.SEED
    replica: str = ""
    """Who made it."""
    failures: int = 0
    calls: int = 0
    previous: str = ""
    """The epoch before, as text."""
    previous_state: State | None = None
    previous_since: float = 0.0
    error: str = ""
    """The type of the last failure before it."""
    cause: str = ""
    """The trace context (W3C traceparent) of the call that caused it."""

    @property
    def is_seed(self) -> bool:
        """Whether the keys were just made, so that nothing is remembered."""
        return self.epoch.number == 0

    def record(self) -> str:
        """Return the stored form."""
        fields = (
            *(self.epoch, self.state, _ms(self.since), _ms(self.until), _ms(self.cooldown), self.opens),
            *(self.override or "-", _ms(self.override_until), self.reason, word(self.replica)),
            *(self.failures, self.calls, self.previous or "-", self.previous_state or "-"),
            *(_ms(self.previous_since), word(self.error), word(self.cause)),
        )
        return " ".join(map(str, fields))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _full(text: str) -> str:
    return "" if text == "-" else _tame(text)  # whoever may publish may have written anything


def _number(text: str, most: int = LARGEST) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise ValueError(f"a number is written in digits and at most {most}, not {text!r}")
    return int(text)


@lru_cache(maxsize=4096)
def parse(record: str) -> Transition:
    """Read the stored form; anything else is a `ValueError`."""
    fields = record.split(" ")
    if len(fields) != len(FIELDS):
        raise ValueError(f"a record has {len(FIELDS)} fields, not {len(fields)}: {record!r}")
    if max(map(len, fields)) > _LONGEST:
        raise ValueError(f"a field of a record has at most {_LONGEST} characters: {record!r}")
    if len(record) > _LONGEST_RECORD:
        raise ValueError(f"a record has at most {_LONGEST_RECORD} characters: {record!r}")
    f = dict(zip(FIELDS, fields, strict=True))
    return Transition(
        epoch=Epoch.parse(f["epoch"]),
        state=State(f["state"]),
        since=_number(f["since"]) / 1000,
        until=_number(f["until"]) / 1000,
        cooldown=_number(f["cooldown"]) / 1000,
        opens=_number(f["opens"], MOST_OPENS),
        override=Override(f["override"]) if f["override"] != "-" else None,
        override_until=_number(f["override_until"]) / 1000,
        reason=_tame(f["reason"]),
        replica=_full(f["replica"]),
        failures=_number(f["failures"]),
        calls=_number(f["calls"]),
        previous=_full(f["previous"]),
        previous_state=State(f["previous_state"]) if f["previous_state"] in State.__members__ else None,
        previous_since=_number(f["previous_since"]) / 1000,
        error=_full(f["error"]),
        cause=_full(f["cause"]),
    )
