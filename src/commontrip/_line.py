"""The line to the store: how long to wait for an answer, whether anybody is there, and what time it is there."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from commontrip._errors import StoreSilentError, StoreUnavailableError
from commontrip._listener import Listeners
from commontrip._store import View

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds without any answer after which the store is taken for gone."""
AGAIN = 0.02
"""Seconds between two tries of what must be asked until it is answered, or the store given up."""
_SLICES, _TURNS, _STALLED = 5, 20, 1.2


async def within(seconds: float, future: asyncio.Future[Any]) -> bool:
    """Wait for a result; if the loop has stalled meanwhile, some turns more: what has arrived is not late."""
    started = time.monotonic()
    await asyncio.wait({future}, timeout=seconds)
    stalled = time.monotonic() - started > seconds * _STALLED
    for _ in range(_TURNS if stalled else 0):
        if future.done():
            break
        await asyncio.sleep(0)
    return future.done()


class Line:
    """Carries questions to the store. `down` says that the replica has to decide alone, until a write works again."""

    def __init__(self, clock: Callable[[], float], listeners: Listeners) -> None:
        self.down = False
        self.synchronized = False
        self.offset = time.time() - clock()
        self._doubt = 0.0  # how far off the offset may be
        self._clock = clock
        self._listeners = listeners
        self._answered_at = clock()
        self._asked_at: float | None = None  # the first question since, to which there is no answer

    def now(self) -> float:
        """Return the store's clock, as far as known."""
        return self._clock() + self.offset

    def at_least(self) -> float:
        """Return the earliest that the store's clock may show: reckoned from it, no cooldown ends too soon."""
        return self.now() - self._doubt

    async def call(
        self, operation: str, work: Coroutine[Any, Any, T], *, patience: float = PATIENCE, vital: bool = True
    ) -> T:
        """Await an answer; what is not `vital` says nothing of the store's health when it fails."""
        started, task, failed = self._clock(), asyncio.ensure_future(work), ""
        try:
            # In slices: time in which this process itself did not run is not the store's silence.
            if not any([await within(patience / _SLICES, task) for _ in range(_SLICES) if not task.done()]):
                raise StoreSilentError(operation, f"no answer for {patience:g} s")
            answer = task.result()
        except StoreUnavailableError as error:
            failed = type(error).__name__
            self._unwell(error, started, vital=vital)
            raise
        finally:
            task.cancel()
            self._listeners.tell("on_store", operation, self._clock() - started, failed)
        self._well(answer, started)
        return answer

    def restore(self) -> None:
        """Hear that the store has done a write again."""
        self.down = False
        self._listeners.report("shared_mode", "", "the store works again: breakers in use go back to the fleet")

    def _well(self, answer: object, started: float) -> None:
        self._answered_at, self._asked_at = self._clock(), None
        view = answer[0] if isinstance(answer, list) and answer else answer
        if isinstance(view, View):
            self.offset = view.now - (started + self._answered_at) / 2
            self._doubt = (self._answered_at - started) / 2
            self.synchronized = True

    def _unwell(self, error: StoreUnavailableError, started: float, *, vital: bool) -> None:
        kind = "misconfigured" if error.misconfigured else "store_error"
        self._listeners.report(kind, "", str(error))
        if not vital:
            return
        self._asked_at = started if self._asked_at is None else self._asked_at
        silent_for = self._clock() - max(self._asked_at, self._answered_at)
        if not self.down and (not isinstance(error, StoreSilentError) or silent_for >= PATIENCE * 0.9):
            self.down = True
            self._listeners.report("local_mode", "", "the store is away: this replica decides alone")
