"""Redis's time, as far as this process can know it between two exchanges.

An exchange sent at s and answered at r by our monotonic clock, in which Redis said T, tells that Redis's clock
showed T somewhere in between: at r it showed at least T, at s at most T. From then on both clocks run alike, but
for their drift. The bounds below are those two, widened by more than clocks drift.

They make our answers comparable with those of other replicas, and with what Redis itself dates: a question is never
dated after it was sent, and an answer never before it arrived, so nothing is taken for later than it was, at no
round trip per question. A question is dated when it is asked, by the clock known then: after a failover to another
clock, the old date stays comparable with what was written under the old clock. Only when Redis's own clock is set
back is that not seen until the next exchange, at most ten seconds away.
"""

from collections.abc import Callable
from math import inf

from apps.profile.known import Answer

_DRIFT = 0.001  # quartz does 0.0001, and time daemons slew by 0.0005


class StoreClock:
    """Bounds of Redis's time. They are known once `heard` was called."""

    def __init__(self, local: Callable[[], float]) -> None:
        """Take our own monotonic clock."""
        self.local = local
        self._sent = self._received = -inf
        self._said = 0.0

    @property
    def known(self) -> bool:
        """Whether Redis has said its time at all."""
        return self._received > -inf

    @property
    def silence(self) -> float:
        """Seconds since the last exchange; infinity before the first."""
        return self.local() - self._received

    def heard(self, sent: float, said: float) -> None:
        """Take note of an exchange that has just been answered."""
        self._sent, self._received, self._said = sent, self.local(), said

    def earliest(self, moment: float) -> float:
        """Return what Redis's clock showed at the least at a moment of ours."""
        return moment + self._said - self._received - self._drift(moment - self._received)

    def there(self, answer: Answer) -> Answer:
        """Date by Redis's clock what is dated by ours."""
        return self._dated(answer, self._said - self._received, self._said - self._sent, self._received)

    def here(self, answer: Answer) -> Answer:
        """Date by our clock what is dated by Redis's."""
        return self._dated(answer, self._sent - self._said, self._received - self._said, self._said)

    def _dated(self, answer: Answer, least: float, most: float, known_at: float) -> Answer:
        def early(moment: float) -> float:
            return moment if moment == inf else moment + least - self._drift(moment - known_at)

        def late(moment: float) -> float:
            return moment + most + self._drift(moment - known_at)

        return Answer(answer.roles, early(answer.asked), late(answer.answered), early(answer.expires))

    def _drift(self, passed: float) -> float:
        return _DRIFT * (abs(passed) + self._received - self._sent)
