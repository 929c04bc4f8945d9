"""The way back: an answer's head, then its body as it comes, until it ends or somebody leaves."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import cast

import httpx
from starlette.types import Scope, Send

from apps.gateway.caller import Caller
from apps.gateway.headers import response_headers
from apps.gateway.settings import Settings
from apps.shared import connection
from apps.shared.problems import Problem

logger = logging.getLogger("apps.proxy")


class Relay:
    """Passes answers on. Event streams are counted apart from other requests, and end when the gateway drains."""

    def __init__(self, settings: Settings) -> None:
        self._idle = settings.idle_seconds
        self._most = settings.streams
        self._streams: set[_Passage] = set()
        self._draining = False

    def drain(self) -> None:
        """End all event streams, in order: their clients come again, and elsewhere."""
        self._draining = True
        for passage in self._streams:
            passage.stop("drained")

    async def __call__(
        self, response: httpx.Response, scope: Scope, caller: Caller, send: Send, give_back: Callable[[], None]
    ) -> None:
        """Pass one on; `give_back` is called early where it will last."""
        passage = _Passage(response, self._idle)
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                if self._draining:
                    await _come_again(send)
                    return
                self._admit(passage)
                give_back()
            await passage.run(scope, caller, send)
        finally:
            self._streams.discard(passage)
            await response.aclose()

    def _admit(self, passage: "_Passage") -> None:
        if len(self._streams) >= self._most:
            raise Problem(503, "no further event stream is passed on", {"retry-after": "5"})
        self._streams.add(passage)


async def _come_again(send: Send) -> None:
    """End a stream in order: after an error an EventSource gives up, after an end it comes again, elsewhere."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"retry: 1000\n\n"})


class _Passage:
    """One answer on its way."""

    def __init__(self, response: httpx.Response, idle: float) -> None:
        self._response = response
        self._idle = idle
        self._stopped = ""
        self._time = asyncio.timeout(idle)

    def stop(self, why: str) -> None:
        """End it now."""
        self._stopped = self._stopped or why
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            self._time.reschedule(asyncio.get_running_loop().time())

    async def run(self, scope: Scope, caller: Caller, send: Send) -> None:
        """Send head and body. What ends before its time is broken off, so that nobody takes it for the whole."""
        try:
            async with self._time:
                caller.when_gone(lambda: self.stop("gone"))
                await self._pass_on(send)
        except TimeoutError:
            if self._stopped == "drained":
                await send({"type": "http.response.body", "body": b""})
            elif not self._stopped:
                self._break_off(scope, f"stood still for {self._idle:g} s")
        except httpx.HTTPError as error:
            self._break_off(scope, f"{type(error).__name__}: {error}")

    async def _pass_on(self, send: Send) -> None:
        headers = response_headers(self._response)
        await send({"type": "http.response.start", "status": self._response.status_code, "headers": headers})
        clock = asyncio.get_running_loop().time
        async for chunk in cast("httpx.AsyncByteStream", self._response.stream):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not self._stopped:
                self._time.reschedule(clock() + self._idle)
        await send({"type": "http.response.body", "body": b""})

    def _break_off(self, scope: Scope, why: str) -> None:
        logger.warning("an answer broke off: %s", why)
        connection.abort(scope)
