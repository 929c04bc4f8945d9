"""What auth said of a user, and which of several answers may be the last. No I/O.

When auth decided is not known, only that it was between the question and the answer. An answer is certainly older
than another if that was asked for after this one had arrived; then it is forgotten. Those that are left overlap,
and any of them may be what auth said last. If they agree, that is what holds; if they differ, nothing may be said,
for the older of them might say too much. A refusal (403, 404) is an answer like the others, whose roles are None.

So a late answer that was asked for before a refusal had arrived does not bring back what was refused, and roles that
were taken away do not come back either, wherever and in whatever order the answers are written down: what auth said
last is never certainly older than anything, hence never forgotten. `known.lua` does the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

Roles = tuple[str, ...]
"""All that is kept of what auth says; a session token least of all."""

MOST_AT_ONCE = 8
"""Answers that differ and overlap; of more than these nothing may be said, whatever they are."""
OTHER_CLOCK = 1.0
"""Seconds by which a question may lie in the future before it is taken for one by another clock (a failover)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or several that agree and overlap. Times are seconds by one clock, which the holder knows."""

    roles: Roles | None
    asked: float
    """Not after the question was sent."""
    answered: float
    """Not before the answer had arrived."""
    expires: float = inf
    """When it is no longer valid, by what auth said."""


Known = tuple[Answer, ...]
"""The answers that may be the last; no two have the same roles."""


def add(known: Known, new: Answer) -> Known:
    """Return which answers may be the last, with one more."""
    if any(old.asked > new.answered for old in known):
        return known
    kept = [old for old in known if old.answered >= new.asked]
    for twin in [old for old in kept if old.roles == new.roles]:
        kept.remove(twin)
        new = _both(twin, new, new.roles)
    if len(kept) < MOST_AT_ONCE:
        return (*kept, new)
    for old in kept:
        new = _both(old, new, None)
    return (new,)


def merge(known: Known, others: Iterable[Answer]) -> Known:
    """Return which answers may be the last of these and those."""
    for other in others:
        known = add(known, other)
    return known


def served(known: Known, now: float, most_age: float) -> tuple[Roles, float, float] | None:
    """Return the roles, their age, and the seconds for which they are valid; None if nothing may be said.

    Served is what is younger than `most_age`, valid, and the only answer that may be the last.
    """
    if len(known) != 1 or known[0].roles is None:
        return None
    [answer] = known
    age, left = now - answer.asked, answer.expires - now
    return (known[0].roles, max(0.0, age), left) if -OTHER_CLOCK < age < most_age and left > 0 else None


def _both(one: Answer, other: Answer, roles: Roles | None) -> Answer:
    asked, answered = max(one.asked, other.asked), max(one.answered, other.answered)
    return Answer(roles, asked, answered, min(one.expires, other.expires))
