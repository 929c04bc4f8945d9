"""For tests of services that use breakers: a clock that can be moved, and a listener that remembers.

clock, heard = FakeClock(), RecordingListener()
async with Breakers(MemoryStore(clock=clock), clock=clock, listeners=[heard]) as breakers:
    ...  # trip it
    await heard.next(State.OPEN)
    clock.advance(30)
    ...  # the next call is a probe
    await heard.next(State.CLOSED)
"""

import asyncio
import time
from typing import NamedTuple

from commontrip import _check
from commontrip._listener import Applied, Listener, Report
from commontrip._state import Outcome, State


class FakeClock:
    """Seconds that run as they do outside, and jump ahead by `advance`; for `Breakers` and `MemoryStore` alike.

    It does not stand still, because the event loop's timers do not: what waits 25 ms must see that they are over.
    A jump fires no timer; it is seen by whoever looks at the clock next, as the next call does.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()  # so that recorded times are of today

    def __call__(self) -> float:
        """Return the time; it never goes back."""
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Jump ahead by `seconds` (at least 0)."""
        self._ahead += _check.number("seconds", seconds, 0)


class HeardCall(NamedTuple):
    """A call that was refused, failed, was slow, or was a probe."""

    breaker: str
    state: State
    outcome: Outcome
    probe: bool


class RecordingListener(Listener):
    """Keeps what it hears, in order: `transitions`, `calls` and `reports`."""

    def __init__(self) -> None:
        self.transitions: list[Applied] = []
        self.calls: list[HeardCall] = []
        self.reports: list[Report] = []
        self._returned = 0
        self._news = asyncio.Event()

    def on_transition(self, applied: Applied) -> None:
        """Keep it and wake whoever waits."""
        self.transitions.append(applied)
        self._news.set()

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:
        """Keep it."""
        self.calls.append(HeardCall(breaker, state, outcome, probe))

    def on_report(self, report: Report) -> None:
        """Keep it."""
        self.reports.append(report)

    async def next(self, state: State, within: float = 5.0) -> Applied:
        """Return the next transition to `state`, heard already or not; each is returned or passed over once.

        `TimeoutError` if there is none within so many seconds of real time. For one task at a time.
        """
        async with asyncio.timeout(within):
            while True:
                for applied in self.transitions[self._returned :]:
                    self._returned += 1
                    if applied.transition.state == state:
                        return applied
                self._news.clear()
                await self._news.wait()
