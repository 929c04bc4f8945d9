"""Who asks: the body they send, and whether they are still there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import Receive


class Caller(httpx.AsyncByteStream):
    """A caller; as a stream, the body on its way through, which can be sent once."""

    def __init__(self, receive: Receive, *, sends: bool) -> None:
        """Read by `receive`; `sends` says whether there is a body."""
        self._receive = receive
        self._read = asyncio.Event()
        self._when_gone: Callable[[], object] = lambda: None
        self.sends = sends
        self.started = False
        self.waiting = False
        self.gone = False
        if not sends:
            self._read.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pass the body on as it comes; raises `ClientDisconnect` when the caller leaves in the middle of it."""
        self.started = True
        more = True
        while more:
            self.waiting = True
            message = await self._receive()
            self.waiting = False
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk
        self._read.set()

    def answered(self) -> None:
        """Read no more of the body: the answer has come."""
        self._read.set()

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call this, and nothing that was named before, when the caller has left, or at once if that was earlier."""
        self._when_gone = call
        if self.gone:
            call()

    async def watch(self) -> None:
        """See the caller leave, from the end of the body on; to be cancelled when the answer is finished."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        with contextlib.suppress(RuntimeError):  # a timeout that has just ended by itself
            self._when_gone()
