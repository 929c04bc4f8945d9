"""The fallback's memory: what auth said last, in this process at once and in Redis for the fleet.

A success costs no command: it is written down when it says something new, or when what is written has reached a
quarter of the age at which it is no longer served, and then in a batch, off the request's path. Redis is read when
the fallback is needed, and not before. What cannot be read within the budget is not waited for: then this
process's own memory serves.

A Redis that has lost what it held (restarted, flushed, failed over) knows nothing of what other replicas have heard.
Each tells it again all that it knows, and until all have had the time for that, nobody goes by what is older.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from itertools import islice
from math import inf
from typing import Self

from apps.profile.clock import StoreClock
from apps.profile.entry import Entry, Question
from apps.profile.known import Known, Roles, served
from apps.profile.shelf import Shelf
from apps.shared.redis import AWAY

logger = logging.getLogger("apps.memory")

_BATCH = 0.1  # seconds for which answers are collected
_AT_ONCE = 100  # commands in one round trip
_FIRST = 0.25  # seconds for the first look: what was asked before it is older than all that Redis is known to hold
_PAUSE = 0.5  # seconds until Redis is tried again
_LOOK = 2.0  # seconds after which a replica with anything to tell looks whether Redis still holds it
_TOLD = 5.0  # seconds after a loss in which every replica has told what it knows
_RENEW = 0.25  # of the age at which an answer is no longer served


class Memory:
    """What auth said last of each user. One per process, used as `async with`; it needs no Redis to begin."""

    def __init__(self, shelf: Shelf, clock: StoreClock, *, most_age: float, budget: float, users: int) -> None:
        """Serve what is younger than `most_age` s; let Redis delay a request by `budget` s; keep so many `users`."""
        self._shelf = shelf
        self._clock = clock
        self._most_age = most_age
        self._budget = budget
        self._users = users
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._unwritten: dict[str, None] = {}
        self._writing: list[str] = []
        self._wake = asyncio.Event()
        self._away = False
        self._trying = False
        self._held: tuple[float, int] | None = None  # since when Redis has lost nothing, and by which of its clocks
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Look at Redis, if it is there, and begin to write."""
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(_FIRST):
                await self._exchange("")
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
        now, known = self._clock.local(), self._clock.last
        if known is None or now - known.received > _LOOK:
            self._wake.set()
        return Question(now, known)

    def learn(self, user: str, question: Question, roles: Roles, valid_for: float = inf) -> None:
        """Note what auth gave, valid for so many seconds; no I/O."""
        entry = self._entry(user)
        if entry.repeats(question, roles, valid_for):
            return
        entry.note(question, roles, valid_for)
        self._write_soon(user, entry)

    async def refuse(self, user: str, question: Question) -> None:
        """Note that auth refused: it is forgotten here at once and for the fleet within the budget, or later."""
        self._entry(user).note(question, None, inf)
        self._unwritten[user] = None
        if self._away:
            self._wake.set()
            return
        try:
            async with asyncio.timeout(self._budget):
                await self._write_one(user)
        except AWAY:
            self._wake.set()

    async def recall(self, user: str) -> tuple[Roles, float, float] | None:
        """Return roles, their age and the seconds for which they are valid; None if nothing may be said.

        Waits for Redis at most as long as the budget says.
        """
        found = await self._read(user)
        if found is None:
            entry = self._entries.get(user)
            return served(entry.here, self._clock.local(), self._most_age) if entry else None
        known, now = found
        if known or user in self._entries:
            entry = self._entry(user)
            entry.hear(known)
            self._write_soon(user, entry)  # Redis may have lost it
            known = entry.there
        since = self._shelf.since
        if now - since < _TOLD and any(one.asked < since for one in known):
            return None  # another replica may have heard otherwise, and has not told it again yet
        return served(known, now, self._most_age)

    def _write_soon(self, user: str, entry: Entry) -> None:
        if not entry.stands(_RENEW * self._most_age):
            self._unwritten[user] = None
            self._wake.set()

    def _entry(self, user: str) -> Entry:
        entry = self._entries.get(user)
        if entry is None:
            self._make_room()
            entry = self._entries[user] = Entry(self._clock)
        self._entries.move_to_end(user)
        return entry

    def _make_room(self) -> None:
        """Forget who was not asked about for longest. What Redis has yet to hear is kept: there may stand more."""
        for user in list(islice(self._entries, 2)):  # two, so that what has grown without Redis shrinks again
            if len(self._entries) >= self._users and user not in self._writing and user not in self._unwritten:
                del self._entries[user]
            elif len(self._entries) >= self._users:
                self._entries.move_to_end(user)

    async def _read(self, user: str) -> tuple[Known, float] | None:
        """Read from Redis, None if it is away; while it was last seen away, one request at a time tries."""
        if self._away and self._trying:
            return None
        self._trying = True
        try:
            async with asyncio.timeout(self._budget):
                found = await self._exchange(user)
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._wake.wait()
            self._wake.clear()
            try:
                last = self._clock.last
                if last is None or (self._entries and self._clock.local() - last.received > _LOOK):
                    await self._exchange("")
                await asyncio.sleep(_BATCH)
                await self._write_all()
                self._back()
            except AWAY as error:
                self._gone(error)
                await asyncio.sleep(_PAUSE)
                self._wake.set()
            except Exception:
                logger.exception("what auth has said could not be written down; it is tried again")
                await asyncio.sleep(_PAUSE)
                self._wake.set()

    async def _write_all(self) -> None:
        while users := list(self._unwritten)[:_AT_ONCE]:
            await asyncio.gather(*map(self._write_one, users))

    async def _write_one(self, user: str) -> None:
        """Write down what is known of a user, and hear what stands there."""
        self._unwritten.pop(user, None)
        self._writing.append(user)
        try:
            if self._clock.last is None:
                await self._exchange("")
            known, _ = await self._exchange(user, self._entry(user).there)
            self._entry(user).hear(known)
        except BaseException:
            self._unwritten[user] = None
            raise
        finally:
            self._writing.remove(user)

    async def _exchange(self, user: str, answers: Known = ()) -> tuple[Known, float]:
        """Write answers down and read what stands there; tell all again if Redis has lost what it held."""
        found = await self._shelf.exchange(user, answers)
        held = (self._shelf.since, self._clock.changes)
        if held != self._held:
            self._held = held
            self._unwritten |= dict.fromkeys(self._entries)
            self._wake.set()
        return found

    def _gone(self, error: BaseException) -> None:
        if not self._away:
            logger.warning("Redis is away, each replica remembers for itself: %s", type(error).__name__)
        self._away = True

    def _back(self) -> None:
        if self._away:
            logger.info("Redis is back")
        self._away = False
