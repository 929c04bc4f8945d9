"""`Connections`: the connections beneath an HTTP client, at a price that does not grow with their number."""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from ssl import SSLContext
from time import monotonic
from typing import cast

import httpx

KEEP_ALIVE = 4.0
"""Seconds; shorter than the services' own, so that we never write to a connection that is just being closed."""
AGE = 10.0
"""Seconds; a connection leads to one pod for as long as it is kept, so this is how soon a new pod gets its share."""


class Connections(httpx.AsyncBaseTransport):
    """Up to `most` connections, each kept `keep_alive` s for the next request to its origin; the last used goes first.

    None is used for longer than `age` s: behind a Kubernetes Service a connection that is always busy would keep to
    its pod, and those that are new would have nothing to do (kubernetes/kubernetes#38456).

    Each is an httpx transport of its own. httpcore's pool looks at all its connections whenever a request begins or
    ends, and loses a place for ever when a request is cancelled just before it connects (encode/httpcore#1093);
    here what was cancelled is closed, and its place is free.
    """

    def __init__(self, most: int, keep_alive: float = KEEP_ALIVE, age: float = AGE) -> None:
        self._limits = httpx.Limits(max_connections=1, keepalive_expiry=keep_alive)
        self._keep_alive = keep_alive
        self._age = age
        self._places = asyncio.Semaphore(most)
        self._idle: defaultdict[bytes, deque[_Connection]] = defaultdict(deque)
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it; `PoolTimeout` if no connection is free within the request's timeout.

        Its extension `placed`, if there is one, is called when there is a connection for it.
        """
        if self._places.locked():
            await self._wait(request)
        else:
            await self._places.acquire()
        request.extensions.get("placed", _nothing)()
        connection = self._take(request.url)
        try:
            response = await connection.transport.handle_async_request(request)
        except Exception:
            self._give_back(connection)
            raise
        except BaseException:
            self._drop(connection)
            self._places.release()
            raise
        response.stream = _Body(response, partial(self._give_back, connection))
        return response

    async def aclose(self) -> None:
        """Close those that are idle; the others are closed by whoever uses them."""
        for idle in self._idle.values():
            while idle:
                self._drop(idle.pop())
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _wait(self, request: httpx.Request) -> None:
        seconds = request.extensions.get("timeout", {}).get("pool")
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout(f"no connection was free within {seconds:g} s", request=request) from None

    def _take(self, url: httpx.URL) -> "_Connection":
        idle = self._idle[url.raw_scheme + url.netloc]
        if idle:
            return idle.pop()
        # Those made together, in a burst, are not to end together.
        until = monotonic() + self._age * random.uniform(0.5, 1)  # noqa: S311 - no secret
        return _Connection(httpx.AsyncHTTPTransport(verify=_tls(), limits=self._limits, trust_env=False), until, idle)

    def _give_back(self, connection: "_Connection") -> None:
        connection.used = now = monotonic()
        idle = connection.idle
        if idle and now - idle[0].used > self._keep_alive:
            self._drop(idle.popleft())
        if now < connection.until:
            idle.append(connection)
        else:
            self._drop(connection)
        self._places.release()

    def _drop(self, connection: "_Connection") -> None:
        closing = asyncio.create_task(connection.transport.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _nothing() -> None:
    """Do nothing: nobody wants to know."""


class _Connection:
    """One connection: until when it may be used, and where it waits for its next request."""

    __slots__ = ("idle", "transport", "until", "used")

    def __init__(self, transport: httpx.AsyncHTTPTransport, until: float, idle: "deque[_Connection]") -> None:
        self.transport, self.until, self.idle = transport, until, idle
        self.used = 0.0


@cache
def _tls() -> SSLContext:
    """Read the certificates once: that takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


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
