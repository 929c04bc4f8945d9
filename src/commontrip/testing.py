"""For tests of services that use breakers: a clock that can be moved, and a listener that remembers.

clock, heard = FakeClock(), RecordingListener()
breakers = Breakers(MemoryStore(clock=clock), clock=clock, listeners=[heard], store_budget=5)  # CI can be slow
"""

import asyncio
import time

from commontrip import _check
from commontrip._listener import Applied, Listener, Report
from commontrip._state import Outcome, State


class FakeClock:
    """Seconds that run as outside and jump ahead by `advance`; for `Breakers` and `MemoryStore` alike.

    It does not stand still, because the event loop's timers do not: who waits 25 ms must see that they are over.
    A jump fires no timer: whoever looks at the clock next sees it, as the next call does. Before it, let what is under
    way come to an end: `await breakers.flush()`.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()  # so that recorded times are of today

    def __call__(self) -> float:
        """Return the time, which never goes back."""
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Jump ahead by `seconds` (at least 0)."""
        self._ahead += _check.number("seconds", seconds, 0)


class RecordingListener(Listener):
    """Keeps what it hears, in order: `transitions`, `reports`, and `calls` as (breaker, state, outcome, probe)."""

    def __init__(self) -> None:
        self.transitions: list[Applied] = []
        self.calls: list[tuple[str, State, Outcome, bool]] = []
        self.reports: list[Report] = []
        self._passed = 0
        self._news = asyncio.Event()

    def on_transition(self, applied: Applied) -> None:
        """Keep it and wake whoever waits."""
        self.transitions.append(applied)
        self._news.set()

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:
        """Keep it."""
        self.calls.append((breaker, state, outcome, probe))

    def on_report(self, report: Report) -> None:
        """Keep it."""
        self.reports.append(report)

    async def next(self, state: State, within: float = 5.0) -> Applied:
        """Return the next transition to `state`, heard already or not; those before it are passed over for good.

        `TimeoutError` if there is none within so many seconds of real time. For one task at a time.
        """
        async with asyncio.timeout(within):
            while True:
                while self._passed < len(self.transitions):
                    self._passed += 1
                    if self.transitions[self._passed - 1].transition.state == state:
                        return self.transitions[self._passed - 1]
                self._news.clear()
                await self._news.wait()
