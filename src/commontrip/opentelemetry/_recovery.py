"""No transition without its span: when its maker was killed before it could send it, another replica does.

Who has delivered a span notes so in the store. A few replicas look, some seconds after a transition, for what is
not noted, and the first of them sends it. See docs/decisions/0007-spans-of-killed-replicas.md.
"""

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from math import ceil
from typing import TypeVar

from commontrip._breakers import Breakers
from commontrip._errors import StoreUnavailableError
from commontrip._transition import Transition

T = TypeVar("T")

logger = logging.getLogger("commontrip")

LOOKERS = 3
"""How many replicas look after a transition: the first that learned of it."""
YOUNGER = 600.0
"""Seconds after which a transition is not looked for any more."""
MOST = 20
"""Breakers at which a newcomer looks, those with the latest transitions."""


class Recovery:
    """One replica's part in it. Works in the event loop; only `delivered` may be called from elsewhere."""

    def __init__(
        self,
        breakers: Breakers,
        send: Callable[[str, Transition], None],
        able: Callable[[], bool],
        patience: float,
    ) -> None:
        """Look at these breakers, and `send` what their makers have not within `patience` seconds; while `able`."""
        self._breakers = breakers
        self._send = send
        self._able = able
        self._patience, self._step = patience, patience / 2
        self._loop = asyncio.get_running_loop()
        self._looks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._looking_back: asyncio.Task[None] | None = None
        self._news: set[str] | None = set()
        self._notes: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Look once, a little later, for what happened before this replica came."""
        self._looking_back = self._loop.create_task(self._look_back())

    def heard(self, breaker: str) -> None:
        """Hear of a transition: the first to learn of it will look, and see what was before it, too."""
        if self._news is not None:
            self._news.add(breaker)

    def learned(self, breaker: str, rank: int) -> None:
        """Hear that this replica was the rank-th to learn of a transition; the maker was the first.

        Looks at one breaker are half a patience apart, however often it changes: one sees all that is old enough.
        """
        turn = rank - 2
        if 0 <= turn < LOOKERS:
            due = self._loop.time() + self._patience * (1 + 2 * turn)
            slot = (breaker, ceil(due / self._step))
            if slot not in self._looks:
                self._looks[slot] = self._loop.create_task(self._look_at(*slot))

    def delivered(self, told: Iterable[tuple[str, str]]) -> None:
        """Hear, in any thread, that the spans of these transitions (breaker, epoch) have arrived."""
        epochs = defaultdict(list)
        for breaker, epoch in told:
            epochs[breaker].append(epoch)
        self._tell(self._note_all, dict(epochs))

    def given_up(self, lost: Iterable[tuple[str, str]]) -> None:
        """Hear, in any thread, that these spans were given up: whoever can deliver again first sends them."""
        self._tell(self._look_again, {breaker for breaker, _ in lost})

    def _tell(self, hear: Callable[[T], None], what: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed; others will send them again
            self._loop.call_soon_threadsafe(hear, what)

    def _look_again(self, breakers: set[str]) -> None:
        for breaker in breakers:
            self.learned(breaker, 2)

    async def settled(self) -> None:
        """Wait until what has been delivered is noted, or cannot be."""
        await asyncio.sleep(0)
        await asyncio.gather(*self._notes)

    async def aclose(self) -> None:
        """Look no more; what has been delivered is noted."""
        looks = [*self._looks.values(), *filter(None, [self._looking_back])]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await self.settled()

    def _note_all(self, epochs: dict[str, list[str]]) -> None:
        for breaker, some in epochs.items():
            note = self._loop.create_task(self._ask(self._breakers.told(breaker, some)))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)

    async def _look_at(self, breaker: str, slot: int) -> None:
        try:
            await asyncio.sleep(slot * self._step - self._loop.time())
            await self._look(breaker)
        finally:
            del self._looks[breaker, slot]

    async def _look_back(self) -> None:
        await asyncio.sleep(self._patience * random.uniform(1, 2))  # noqa: S311 - spreads load
        found = []
        for one in self._breakers:
            await asyncio.sleep(0)  # there may be thousands
            last = one.snapshot.transition
            if last and not last.is_seed and one.name not in (self._news or ()):
                found.append((last.since, one.name))
        self._news = None
        for _, breaker in sorted(found, reverse=True)[:MOST]:
            await self._look(breaker)

    async def _look(self, breaker: str) -> None:
        while not self._able():  # noqa: ASYNC110 - a thread says so; who cannot deliver takes no turn from those who can
            await asyncio.sleep(self._patience)
        await self._ask(self._find(breaker))

    async def _find(self, breaker: str) -> None:
        ages = {"older": self._patience * 0.9, "younger": YOUNGER}
        for transition in await self._breakers.untold(breaker, **ages, turn=self._patience * 1.4):
            logger.info("circuit %s: %s did not send the span of %s", breaker, transition.replica, transition.epoch)
            self._send(breaker, transition)

    async def _ask(self, question: Coroutine[None, None, None]) -> None:
        if self._breakers.local:  # or this replica has left
            question.close()
            return
        with contextlib.suppress(StoreUnavailableError):
            await question
