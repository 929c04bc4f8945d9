"""How spans leave: tried again until they have arrived, and waited for no longer than somebody has time."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

TRY_FOR = 60.0
"""Seconds for which a batch is tried again."""
_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between two tries
_REST = 10.0  # seconds after a batch was given up, until somebody may try with another


class Ended(Protocol):
    """Hears what became of a batch, in the thread that sends."""

    def __call__(self, spans: Sequence[ReadableSpan], *, arrived: bool) -> None:
        """Take it in; must not block."""


class Delivery(SpanExporter):
    """Sends a batch until it has arrived: the SDK's own exporters give up within seconds, and then it is lost.

    Those that come meanwhile wait in the queue of the thread that sends.
    """

    def __init__(self, exporter: SpanExporter, ended: Ended) -> None:
        """Send by an exporter, which is closed with this one."""
        self._exporter = exporter
        self._ended = ended
        self._fails_until = 0.0  # by the monotonic clock
        self.leaving = threading.Event()
        """Set when nobody waits any longer."""

    @property
    def works(self) -> bool:
        """Whether it is worth a try: the last one arrived, or the batch was given up some time ago."""
        return time.monotonic() >= self._fails_until

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them; what the exporter raises is not tried again."""
        arrived, until, pause = False, time.monotonic() + TRY_FOR, _PAUSE
        try:
            while not (arrived := self._exporter.export(spans) is SpanExportResult.SUCCESS):
                self._fails_until = math.inf
                if time.monotonic() > until or self.leaving.wait(pause):
                    return SpanExportResult.FAILURE
                pause = min(2 * pause, _LONGEST_PAUSE)
            return SpanExportResult.SUCCESS
        finally:
            self._fails_until = 0.0 if arrived else time.monotonic() + _REST
            self._ended(spans, arrived=arrived)

    def shutdown(self) -> None:
        """Close the exporter."""
        self._exporter.shutdown()


async def within(seconds: float, work: Callable[[], object]) -> bool:
    """Run what blocks in a thread that nothing waits for after `seconds`: the SDK's own limits do not hold."""
    thread = threading.Thread(target=work, name="commontrip sends spans", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread sets no event of a loop
        await asyncio.sleep(0.01)
    return not thread.is_alive()
