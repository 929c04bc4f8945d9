"""Redis's time, as far as this process can know it between two exchanges.

An exchange sent at s and answered at r by our monotonic clock, in which Redis said T, tells that Redis's clock
showed T somewhere in between: at r it showed at least T, at s at most T. From then on both clocks run alike, but
for their drift. `earliest` and `last` are those two bounds, widened by more than clocks drift.

The bounds are what makes a question's time safe to compare with a refusal's, which Redis itself writes down:
a question is never dated after it was sent, so an answer asked for before a refusal is never taken for a later
one. It costs no round trip per question. A question is dated when it is asked, by the clock known then: after a
failover to another clock, the old date stays comparable with what was written under the old clock. Only a clock
of Redis's own that is set back is not seen until the next exchange, which is at most ten seconds away.
"""

from collections.abc import Callable
from math import inf

_DRIFT = 0.001  # quartz does 0.0001, and time daemons slew by 0.0005


class StoreClock:
    """Bounds of Redis's time; before the first exchange they are minus and plus infinity."""

    def __init__(self, local: Callable[[], float]) -> None:
        """Take our own monotonic clock."""
        self.local = local
        self._sent = self._received = -inf
        self._said = 0.0

    @property
    def silence(self) -> float:
        """Seconds since the last exchange."""
        return self.local() - self._received

    def heard(self, sent: float, said: float) -> None:
        """Take note of an exchange that has just been answered."""
        self._sent, self._received, self._said = sent, self.local(), said

    def earliest(self, local: float) -> float:
        """Return what Redis's clock showed at the least at this moment of ours."""
        passed = local - self._received
        return -inf if passed == inf else self._said + passed - _DRIFT * abs(passed)

    def last(self, local: float) -> float:
        """Return what Redis's clock showed at the most at this moment of ours."""
        passed = local - self._sent
        return passed if passed == inf else self._said + passed + _DRIFT * abs(passed)
