"""Event streams: what is sent to all is serialised once, and whoever reads too slowly is cut off."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context
from typing import Any

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

STREAMS = 1000
"""Clients at once."""
_SLICE = 10  # clients that are written to in one turn of the loop: below a millisecond


class Hub:
    """The streams that are told the same. `meanwhile`, if given, runs while there are any."""

    def __init__(self, backlog: int, meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.streams: set[Stream] = set()
        self.asleep: deque[Stream] = deque()  # have something to send, and do not know yet
        self._backlog = backlog
        self._meanwhile = meanwhile
        self._task: asyncio.Task[None] | None = None
        self.closed = self._waking = False

    @property
    def full(self) -> bool:
        """Whether no further client is taken."""
        return len(self.streams) >= STREAMS

    def send(self, chunk: bytes) -> None:
        """Send to all. Requests come in between: with hundreds of clients one turn for all would be felt."""
        for stream in self.streams:
            stream.put(chunk, self._backlog)
        if self.asleep and not self._waking:
            self._wake()

    def close(self) -> None:
        """End all streams in order, and begin none."""
        self.closed = True
        self.send(b"")

    def _wake(self) -> None:
        for _ in range(min(_SLICE, len(self.asleep))):
            self.asleep.popleft().news.set()
        self._waking = bool(self.asleep)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake)

    def join(self, stream: "Stream") -> None:
        """Hear that a client is there."""
        self.streams.add(stream)
        if self._meanwhile and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._meanwhile(), context=Context())

    def leave(self, stream: "Stream") -> None:
        """Hear that it has left."""
        self.streams.discard(stream)
        if self._task and not self.streams:
            self._task.cancel()
            self._task = None  # it is not done yet, and whoever joins in this turn needs another


class Stream(EventSourceResponse):
    """One client's events. Those unsent are bounded: who is too slow is cut off, comes again and is told all anew."""

    def __init__(self, first: bytes, hub: Hub) -> None:
        self.news = asyncio.Event()
        self.news.set()
        self._unsent = [first]
        self._hub = hub
        self._cut = anyio.CancelScope()
        down = anyio.Event()

        async def end() -> None:
            await down.wait()
            self._unsent.append(b"")
            self.news.set()

        super().__init__(self._chunks(), data_sender_callable=end, shutdown_event=down, shutdown_grace_period=1)

    def put(self, chunk: bytes, most: int) -> None:
        """Have it sent when the hub says so; an empty one is the last."""
        if not self._unsent:
            self._hub.asleep.append(self)
        self._unsent.append(chunk)
        if len(self._unsent) > most:
            self._cut.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        events: list[bytes] = []
        while b"" not in events:
            await self.news.wait()
            self.news.clear()
            events, self._unsent = self._unsent, []
            yield b"".join(events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the client until one of the two leaves."""
        self._hub.join(self)
        try:
            with self._cut:
                await super().__call__(scope, receive, send)
        finally:
            self._hub.leave(self)
