"""What one process knows of one user: by its own clock, by Redis's, and what it believes to stand in Redis."""

from dataclasses import replace
from math import inf
from typing import NamedTuple

from apps.profile.clock import Exchange, StoreClock
from apps.profile.known import Answer, Known, Roles, add, merge


class Question(NamedTuple):
    """A question to auth: when it was asked by our clock, and what was known then of Redis's."""

    asked: float
    known: Exchange | None


class Entry:
    """One user. No I/O.

    Nearly every answer says what the one before said, so that only its times are new. Those are kept as they come
    and worked in when somebody looks: noting such an answer must cost a request next to nothing.
    """

    __slots__ = (
        *("_answered", "_asked", "_changes", "_clock", "_expires"),
        *("_here", "_renew_at", "_steady", "_there", "written"),
    )

    def __init__(self, clock: StoreClock) -> None:
        self.written: Known = ()
        """What stands in Redis, as far as this process knows."""
        self._clock = clock
        self._changes = 0
        self._here: Known = ()
        self._there: Known = ()
        self._steady: Roles | None = None
        self._renew_at = 0.0
        self._asked: Question | None = None
        self._answered = 0.0
        self._expires = inf

    @property
    def here(self) -> Known:
        """The answers that may be the last, by this process's monotonic clock; of use without Redis."""
        self._work_in()
        return self._here

    @property
    def there(self) -> Known:
        """The same by Redis's clock; empty until that clock is known, and dated anew when it is another one."""
        self._work_in()
        if self._changes != self._clock.changes:
            self._changes = self._clock.changes
            self._there, self.written = tuple(map(self._clock.there, self._here)), ()
        return self._there

    def repeats(self, question: Question, roles: Roles, valid_for: float) -> bool:
        """Note an answer if it only repeats what stands in Redis, and stands there young enough; else say no."""
        if roles != self._steady or question.asked > self._renew_at or self._changes != self._clock.changes:
            return False
        if self._asked is None or question.asked > self._answered:
            self._expires = inf  # those before are certainly older
        if self._asked is None or question.asked > self._asked.asked:
            self._asked = question
        self._answered = self._clock.local()
        if valid_for != inf:
            self._expires = min(self._expires, question.asked + valid_for)
        return True

    def note(self, question: Question, roles: Roles | None, valid_for: float) -> None:
        """Note any answer."""
        self._work_in()
        self._steady = None
        self._add(question, Answer(roles, question.asked, self._clock.local(), question.asked + valid_for))

    def hear(self, known: Known) -> None:
        """Note what stands in Redis, also for when it is away."""
        self._there = merge(self.there, known)
        self._steady = None
        self._here = merge(self._here, map(self._clock.here, known))
        self.written = known

    def stands(self, renew: float) -> bool:
        """Whether Redis has it, and none of it is more than `renew` seconds older there."""
        there, written = ({one.roles: one.asked for one in known} for known in (self.there, self.written))
        if not written or there.keys() != written.keys():
            return False
        older = max(there[roles] - written[roles] for roles in there)
        if older <= renew and len(there) == len(self._here) == 1:
            self._steady, self._renew_at = self._here[0].roles, self._here[0].asked + renew - older
        return older <= renew

    def _add(self, question: Question, here: Answer) -> None:
        if self._clock.last:
            there = self._clock.there(here)
            # Two dates if the clock has changed since; the earlier one cannot be too late.
            asked = min(there.asked, question.known.earliest(question.asked)) if question.known else there.asked
            self._there = add(self.there, replace(there, asked=asked))
        self._here = add(self._here, here)

    def _work_in(self) -> None:
        if self._asked is not None:
            question, self._asked = self._asked, None
            here = Answer(self._steady, question.asked, self._answered, self._expires)
            self._add(question, here)
