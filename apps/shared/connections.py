"""`Connections`: the connections beneath an HTTP client, at a price that does not grow with their number."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import monotonic
from typing import cast

import httpx


class Connections(httpx.AsyncBaseTransport):
    """Up to `most` connections to one origin, each kept `keep_alive` s for the next request; the one used last first.

    Each is an httpx transport of its own. httpcore's pool looks at all its connections whenever a request begins or
    ends, and loses a place for ever when a request is cancelled just before it connects (encode/httpcore#1093);
    here what was cancelled is closed, and its place is free.
    """

    def __init__(self, most: int, keep_alive: float) -> None:
        self._limits = httpx.Limits(max_connections=1, keepalive_expiry=keep_alive)
        self._keep_alive = keep_alive
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._places = asyncio.Semaphore(most)
        self._idle: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it; `PoolTimeout` if no connection is free within the request's timeout."""
        if self._places.locked():
            await self._wait(request)
        else:
            await self._places.acquire()
        transport = self._take()
        try:
            response = await transport.handle_async_request(request)
        except Exception:
            self._give_back(transport)
            raise
        except BaseException:
            self._drop(transport)
            self._places.release()
            raise
        response.stream = _Body(response, partial(self._give_back, transport))
        return response

    async def aclose(self) -> None:
        """Close those that are idle; the others are closed by whoever uses them."""
        while self._idle:
            self._drop(self._idle.pop()[1])
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _wait(self, request: httpx.Request) -> None:
        seconds = request.extensions.get("timeout", {}).get("pool")
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout(f"no connection was free within {seconds:g} s", request=request) from None

    def _take(self) -> httpx.AsyncHTTPTransport:
        if self._idle:
            return self._idle.pop()[1]
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=self._limits, trust_env=False)

    def _give_back(self, transport: httpx.AsyncHTTPTransport) -> None:
        now = monotonic()
        if self._idle and now - self._idle[0][0] > self._keep_alive:
            self._drop(self._idle.popleft()[1])
        self._idle.append((now, transport))
        self._places.release()

    def _drop(self, transport: httpx.AsyncHTTPTransport) -> None:
        closing = asyncio.create_task(transport.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Body(httpx.AsyncByteStream):
    """A body that says once when it is closed."""

    def __init__(self, response: httpx.Response, closed: Callable[[], None]) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._closed: Callable[[], None] | None = closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        closed, self._closed = self._closed, None
        try:
            await self._stream.aclose()
        finally:
            if closed:
                closed()
