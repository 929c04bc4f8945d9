"""Redis's time, as far as this process can know it between two exchanges.

An exchange sent at s and answered at r by our monotonic clock, in which Redis said T, tells that Redis's clock
showed T somewhere in between: at r it showed at least T, at s at most T. From then on both clocks run alike, but
for their drift. The bounds below are those two, widened by more than clocks drift.

They make our answers comparable with those of other replicas, and with what Redis itself dates: a question is never
dated after it was sent, and an answer never before it arrived, so nothing is taken for later than it was, at no
round trip per question. A question is dated when it is asked, by the clock known then: after a failover to another
clock, the old date stays comparable with what was written under the old clock. An exchange that contradicts the
bounds shows another clock, and whoever holds dates by the old one dates anew (`changes`); until that exchange, at most
ten seconds away, a Redis whose own clock is set back is not noticed.
"""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from apps.profile.known import Answer

_GRAIN = 1e-5  # what rounding may do to a time
_DRIFT = 0.001  # quartz does 0.0001, and time daemons slew by 0.0005


class Exchange(NamedTuple):
    """What one exchange has told: Redis's clock showed `said` somewhere between `sent` and `received`."""

    sent: float
    received: float
    said: float

    def earliest(self, moment: float) -> float:
        """Return what Redis's clock showed at the least at a moment of ours."""
        return moment + self.said - self.received - self.drift(moment - self.received)

    def latest(self, moment: float) -> float:
        """Return what it showed at most."""
        return moment + self.said - self.sent + self.drift(moment - self.received)

    def drift(self, passed: float) -> float:
        """Return by how much both clocks may have drifted apart."""
        return _DRIFT * (abs(passed) + self.received - self.sent)


class StoreClock:
    """Bounds of Redis's time, as the last exchange has told them."""

    def __init__(self, local: Callable[[], float]) -> None:
        """Take our own monotonic clock."""
        self.local = local
        self.last: Exchange | None = None
        self.changes = 0
        """How often another clock than before was found, the first included."""

    def heard(self, sent: float, said: float) -> None:
        """Take note of an exchange that has just been answered."""
        now, last = self.local(), self.last
        if last is None or not last.earliest(sent) - _GRAIN <= said <= last.latest(now) + _GRAIN:
            self.changes += 1
        self.last = Exchange(sent, now, said)

    def there(self, answer: Answer) -> Answer:
        """Date by Redis's clock what is dated by ours; it must be known."""
        last = self._known()
        expires = answer.expires if answer.expires == inf else last.earliest(answer.expires)
        return Answer(answer.roles, last.earliest(answer.asked), last.latest(answer.answered), expires)

    def here(self, answer: Answer) -> Answer:
        """Date by our clock what is dated by Redis's, which must be known."""
        last = self._known()

        def early(moment: float) -> float:
            return moment if moment == inf else moment + last.sent - last.said - last.drift(moment - last.said)

        answered = answer.answered + last.received - last.said + last.drift(answer.answered - last.said)
        return Answer(answer.roles, early(answer.asked), answered, early(answer.expires))

    def _known(self) -> Exchange:
        if self.last is None:
            raise RuntimeError("Redis has not said its time yet")
        return self.last
