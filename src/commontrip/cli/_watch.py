"""`watch`: follow breakers by the channel and a slow poll, and tell a face that shows them."""

import abc
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from commontrip._errors import StoreSilentError, StoreUnavailableError
from commontrip._transition import Transition
from commontrip.cli._door import Door, is_name
from commontrip.cli._facts import Facts

SILENCE = 3.0
"""Seconds without an answer after which Redis is said to be away."""
_RESCAN = 30.0  # seconds between two looks for new breakers; the channel tells of them at once
_REST = 0.05  # seconds between two turns, however much is heard
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DUMB = (None, "", "dumb", "unknown")  # terminals without a cursor that moves
_AGAIN = 1.0  # seconds between two tries while Redis is away
_BEHIND = 100  # transitions of one breaker that are told after a gap, at most


class Face(abc.ABC):
    """Base for what shows it."""

    tells = False
    """Whether it wants every transition told."""

    @abc.abstractmethod
    async def run(self, seen: "Seen") -> None:
        """Keep showing what is `seen`."""

    def tell(self, name: str, made: Transition, note: str) -> None:  # noqa: B027 - not every face wants it
        """Show one transition."""

    def trouble(self, words: str) -> None:  # noqa: B027 - it is in `seen`, too
        """Show that Redis is away; '' when it is back."""


class Seen:
    """What is known of the breakers, kept up to date."""

    def __init__(self, door: Door, names: Sequence[str], pause: float, face: Face) -> None:
        """Follow these breakers, or all there are, and poll every `pause` seconds."""
        self.door = door
        self.facts: dict[str, Facts] = {}
        self.trouble = ""
        self.news = asyncio.Event()
        """Something has changed that should be shown."""
        self._wanted = tuple(names)
        self._pause = pause
        self._face = face
        self._told: dict[str, str] = {}  # the last epoch of each that was told, or was there at the start
        self._began = 0.0
        self._heard: set[str] = set()
        self._scan_at = self._poll_at = 0.0
        self._wake = asyncio.Event()

    async def follow(self) -> None:
        """Follow for ever. Raises `StoreUnavailableError` if Redis is away at the start."""
        await self._within(self.door.start(self._hear, self._gap))
        await self._within(self._turn())
        self._began = time.monotonic()
        self._told = {name: facts.epoch for name, facts in self.facts.items()}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._face.run(self))
            group.create_task(self._turns())

    def _hear(self, name: str, record: str) -> None:  # noqa: ARG002 - it is read again, with all around it
        if name in self._wanted or (not self._wanted and is_name(name)):  # anybody may publish anything
            self._heard.add(name)
            self._wake.set()

    def _gap(self) -> None:
        self._scan_at = self._poll_at = 0.0
        self._wake.set()

    async def _within(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(SILENCE):
                await work
        except TimeoutError:
            raise StoreSilentError("watch", f"no answer for {SILENCE:g} s") from None

    async def _turns(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._poll_at - time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._within(self._turn())
                self._say("")
            except StoreUnavailableError as error:
                self._poll_at = time.monotonic() + min(self._pause, _AGAIN)
                self._say(self.door.words(error))
            self.news.set()
            await asyncio.sleep(_REST)

    def _say(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self._face.trouble(trouble)
        self.trouble = trouble

    async def _turn(self) -> None:
        now, heard = time.monotonic(), self._heard
        poll, scan = now >= self._poll_at, now >= self._scan_at and not self._wanted
        # What comes while we ask, a gap too, is for the next turn.
        self._heard = set()
        self._poll_at = now + self._pause if poll else self._poll_at
        self._scan_at = now + _RESCAN if scan else self._scan_at
        try:
            found = await self.door.names() if scan else ()
            known = {*found, *(self._wanted or self.facts)} if poll else set()
            await self._read(sorted(known | heard))
        except BaseException:
            self._heard |= heard
            self._poll_at = self._scan_at = 0.0
            raise

    async def _read(self, names: Sequence[str]) -> None:
        for facts in await self.door.look_at(names):
            self.facts[facts.name] = facts
            if not facts.transition and facts.name not in self._wanted:
                del self.facts[facts.name]
            elif facts.transition and self._began and self._face.tells:
                await self._tell(facts, facts.transition)

    async def _tell(self, facts: Facts, last: Transition) -> None:
        """Tell what has happened since it was last told; also what a lost connection has hidden."""
        told = self._told.get(facts.name, "")
        if told == facts.epoch:
            return
        # A breaker that was not there at the start may have a past all the same. Redis's times are whole ms.
        began = 0.0 if told else facts.view.now - (facts.at - self._began) - 0.001
        past: list[tuple[Transition, str]] = []
        for made, note in await self.door.history(facts.name, _BEHIND) or [(last, "")]:
            if str(made.epoch) == told or made.since < began:
                break
            past.append((made, note))
        for made, note in reversed(past):
            self._face.tell(facts.name, made, note)
        self._told[facts.name] = str(past[0][0].epoch) if past else facts.epoch


async def watch(door: Door, names: Sequence[str], pause: float, *, as_json: bool) -> None:
    """Watch until Ctrl-C, or until the terminal goes. Raises `StoreUnavailableError` if Redis is away at the start."""
    loop, following = (
        asyncio.get_running_loop(),
        asyncio.create_task(Seen(door, names, pause, _face(as_json=as_json)).follow()),
    )
    heeded = [number for number in _ENDINGS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
    for number in heeded:
        loop.add_signal_handler(number, following.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await following
    except ExceptionGroup as group:  # such as a reader that has closed the pipe
        raise group.exceptions[0] from group
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)


def _face(*, as_json: bool) -> Face:
    if as_json or not sys.stdout.isatty() or os.environ.get("TERM") in _DUMB:
        from commontrip.cli._lines import Lines  # noqa: PLC0415 - one of the two is enough

        return Lines(as_json=as_json)
    from commontrip.cli._table import Table  # noqa: PLC0415 - rich is not quick to import

    return Table()
