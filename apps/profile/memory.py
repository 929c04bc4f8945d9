"""The fallback's memory: what auth last gave, in this process at once and in Redis for the fleet.

A success costs no command: it is written down when it says something new, or when what is written has reached a
quarter of the age at which it is no longer served, and then in a batch, off the request's path. Redis is read when
the fallback is needed, and not before. What cannot be read within the budget is not waited for: then this
process's own memory serves.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Self

from apps.profile.clock import StoreClock
from apps.profile.known import AuthInfo, Known, latest, overlap
from apps.profile.shelf import Shelf
from apps.shared.redis import AWAY

logger = logging.getLogger("apps.memory")

_BATCH = 0.1  # seconds for which answers are collected
_AT_ONCE = 8  # commands of a batch in flight
_PATIENCE = 1.0  # seconds for one of them
_PAUSE = 0.5  # seconds until Redis is tried again
_LOOK = 10.0  # seconds after which its clock is looked at again
_RENEW = 0.25  # of the age at which an answer is no longer served


@dataclass(frozen=True, slots=True)
class Question:
    """When it was asked, by our clock and, not after that, by Redis's."""

    here: float
    there: float


@dataclass(slots=True)
class _Entry:
    here: Known
    """By this process's monotonic clock."""
    there: Known
    """The same by Redis's clock; from minus to plus infinity where that was not known."""
    written: Known | None = None
    """What stands in Redis, as far as this process knows (`there`)."""


class Memory:
    """What auth last gave for each user. One per process, used as `async with`; it needs no Redis to begin."""

    def __init__(self, shelf: Shelf, clock: StoreClock, *, most_age: float, budget: float, users: int) -> None:
        """Serve what is younger than `most_age` s; let Redis delay a request by `budget` s; keep so many `users`."""
        self._shelf = shelf
        self._clock = clock
        self._most_age = most_age
        self._budget = budget
        self._users = users
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._unwritten: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._away = False
        self._trying = False
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to write."""
        self._wake.set()
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Write what waits, within half a second, and disconnect."""
        if self._writer:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(_PAUSE):
                await self._write_all()
        with contextlib.suppress(*AWAY):
            await self._shelf.aclose()

    def ask(self) -> Question:
        """Note that auth is about to be asked."""
        if self._clock.silence > _LOOK:
            self._wake.set()
        now = self._clock.local()
        return Question(now, self._clock.earliest(now))

    def learn(self, user: str, question: Question, info: AuthInfo, valid_for: float = inf) -> None:
        """Note what auth gave, valid for so many seconds; no I/O."""
        entry = self._add(user, question, info, valid_for)
        written, new = entry.written, entry.there
        if not written or written.info != new.info or new.asked - written.asked > _RENEW * self._most_age:
            self._unwritten[user] = None
            self._wake.set()

    async def refuse(self, user: str, question: Question) -> None:
        """Note that auth refused: it is forgotten here at once and for the fleet within the budget, or later."""
        entry = self._add(user, question, None, inf)
        self._unwritten[user] = None
        try:
            async with asyncio.timeout(self._budget):
                await self._write_one(user, entry)
        except AWAY:
            self._wake.set()

    async def recall(self, user: str) -> tuple[AuthInfo, float] | None:
        """Return what may be served and its age in seconds, None if nothing may; waits at most the budget."""
        entry, found = self._entries.get(user), await self._read(user)
        if found and found[0]:
            there, now = latest(found[0], entry.there) if entry else found[0], found[1]
            self._adopt(user, there, now)
            age = there.age(now, self._most_age)
            return (there.info, age) if there.info and age is not None else None
        age = entry.here.age(self._clock.local(), self._most_age) if entry else None
        return (entry.here.info, age) if entry and entry.here.info and age is not None else None

    def _add(self, user: str, question: Question, info: AuthInfo | None, valid_for: float) -> _Entry:
        now = self._clock.local()
        here = Known(info, question.here, now, question.here + valid_for)
        expires = inf if question.there == -inf else question.there + valid_for
        there = Known(info, question.there, self._clock.last(now), expires)
        entry = self._entries.get(user)
        if entry is None:
            return self._keep(user, _Entry(here, there))
        before, entry.here = entry.here, latest(entry.here, here)
        if entry.here is here:
            entry.there = there
        elif entry.here is not before:
            entry.there = overlap(entry.there, there)
        return self._keep(user, entry)

    def _keep(self, user: str, entry: _Entry) -> _Entry:
        self._entries[user] = entry
        self._entries.move_to_end(user)
        if len(self._entries) > self._users:
            self._unwritten.pop(self._entries.popitem(last=False)[0], None)
        return entry

    def _adopt(self, user: str, there: Known, now: float) -> None:
        """Remember what the fleet knows, for when Redis is away."""
        entry, here_now = self._entries.get(user), self._clock.local()
        if entry is None or entry.here.info != there.info:
            shift = here_now - now
            here = Known(there.info, there.asked + shift, here_now, there.expires + shift)
            self._keep(user, _Entry(here, there))

    async def _read(self, user: str) -> tuple[Known | None, float] | None:
        """Read from Redis, None if it is away; while it was last seen away, one request at a time tries."""
        if self._away and self._trying:
            return None
        self._trying = True
        try:
            async with asyncio.timeout(self._budget):
                found = await self._shelf.recall(user)
        except AWAY as error:
            self._gone(error)
            return None
        else:
            self._back()
            return found
        finally:
            self._trying = False

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                async with asyncio.timeout(_PATIENCE):
                    if self._clock.silence == inf:
                        await self._shelf.warm()
                    if self._clock.silence > _LOOK:
                        await self._shelf.look_at_clock()
                await asyncio.sleep(_BATCH)
                await self._write_all()
            except AWAY as error:
                self._gone(error)
                await asyncio.sleep(_PAUSE)
                self._wake.set()

    async def _write_all(self) -> None:
        while users := list(self._unwritten)[:_AT_ONCE]:
            await asyncio.gather(*(self._write_one(user, self._entries[user]) for user in users))

    async def _write_one(self, user: str, entry: _Entry) -> None:
        """Write what is known of a user, and see whether it stands there too."""
        there = entry.there
        self._unwritten.pop(user, None)
        if there.info and there.asked == -inf:
            return  # without Redis's time it cannot be ordered; the next answer can
        try:
            async with asyncio.timeout(_PATIENCE):
                stands = await self._shelf.remember(user, there)
        except BaseException:
            if user in self._entries:
                self._unwritten[user] = None
            raise
        self._back()
        entry.written = there if stands else None
        if not stands:
            now = self._clock.local()
            entry.here = overlap(entry.here, Known(None, -inf, now))
            entry.there = overlap(entry.there, Known(None, -inf, self._clock.last(now)))

    def _gone(self, error: BaseException) -> None:
        if not self._away:
            logger.warning("Redis is away, each replica remembers for itself: %s", type(error).__name__)
        self._away = True

    def _back(self) -> None:
        if self._away:
            logger.info("Redis is back")
        self._away = False
