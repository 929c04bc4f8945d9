"""What auth gave for a user, and when; and which of two such answers holds. No I/O.

When auth decided is not known, only that it was between the question and the answer. Of two answers, one is the
later if it was asked for after the other had arrived. Of two that overlap nobody knows which auth gave last: if
they differ, nothing may be said any more, until an answer that was asked for after both, for the older of them
might say too much. A refusal (403, 404) is an answer that says: nothing. So a late answer that was asked for before
a refusal had arrived never brings back what was refused, wherever and in whatever order the two are written down.
"""

from dataclasses import dataclass
from math import inf

LATEST_CLOCKS_DIFFER = 1.0
"""Seconds by which an answer may lie in the future before it is taken for one by another clock (a failover)."""


@dataclass(frozen=True, slots=True)
class AuthInfo:
    """What auth says of a user. Nothing else of its answer is kept anywhere, a session token least of all."""

    roles: tuple[str, ...]
    valid_until: str | None = None
    """For people to read; what counts is `Known.expires`."""


@dataclass(frozen=True, slots=True)
class Known:
    """An answer: its times are seconds by one clock, which the holder knows."""

    info: AuthInfo | None
    """None if nothing may be said: auth refused, or answers that overlap differ."""
    asked: float
    """Not after the question was sent."""
    answered: float
    """Not before the answer arrived."""
    expires: float = inf
    """When it is no longer valid, by what auth said."""

    def age(self, now: float, most: float) -> float | None:
        """Return the age in seconds if this may be served: something is known, it is younger than `most`, and valid."""
        age = now - self.asked
        usable = self.info is not None and -LATEST_CLOCKS_DIFFER < age < most and now < self.expires
        return max(0.0, age) if usable else None


def latest(one: Known, other: Known) -> Known:
    """Return the later one, or what the two leave standing."""
    if other.asked > one.answered:
        return other
    if one.asked > other.answered:
        return one
    return overlap(one, other)


def overlap(one: Known, other: Known) -> Known:
    """Return what two answers leave standing of which neither is certainly the later."""
    if one.info != other.info and (one.info is None or other.info is None):
        return one if one.info is None else other
    return Known(
        one.info if one.info == other.info else None,
        max(one.asked, other.asked),
        max(one.answered, other.answered),
        min(one.expires, other.expires),
    )
