"""The proxy: a request goes out as it came in, and its answer comes back as it was given, chunk by chunk."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from apps.gateway.headers import has_body, request_headers
from apps.gateway.relay import Relay
from apps.gateway.routes import Address, Route, Table
from apps.gateway.settings import Settings
from apps.shared.problems import Problem
from apps.shared.steady import SteadyTransport

logger = logging.getLogger("apps.proxy")

KEEP_ALIVE = 4.0  # seconds; shorter than the services', so that we never write to a connection that is being closed
_IDLE = 32  # connections kept; httpcore looks at each of them at every request
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_REFUSING = (httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
_HIGHEST_STATUS = 599


class Proxy:
    """An ASGI app. At most so many requests at once, and each with a deadline for its first byte."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table = Table(settings.routes)
        self._busy = 0
        self.relay = Relay(settings)
        # A transport and no client: a client would keep one caller's cookies for the next.
        limits = httpx.Limits(max_keepalive_connections=_IDLE, keepalive_expiry=KEEP_ALIVE)
        plain = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        self._transport = SteadyTransport(plain, settings.connect_seconds)
        idle = settings.idle_seconds
        self._timeouts = {"connect": settings.connect_seconds, "read": idle, "write": idle, "pool": None}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what goes wrong before the answer has begun is a `Problem`."""
        if scope["method"] in _REFUSED_METHODS:
            raise Problem(405, "this method is not passed on")
        route = self._table.find(scope["raw_path"])
        scope["http.route"] = route.prefix
        if self._busy >= self._settings.concurrency:
            raise Problem(503, "too many requests are under way", {"retry-after": "1"})
        self._busy += 1
        place = _Place(self)
        try:
            response = await self._fetch(scope, receive, route)
            await self.relay(response, scope, receive, send, place.give_back)
        finally:
            place.give_back()

    async def _fetch(self, scope: Scope, receive: Receive, route: Route) -> httpx.Response:
        body = _Body(receive) if has_body(scope["headers"]) else None
        try:
            async with asyncio.timeout(self._settings.first_byte_seconds):
                response = await self._try_all(scope, body, route)
        except httpx.LocalProtocolError:
            raise Problem(400, "the request's head cannot be passed on") from None
        except (TimeoutError, httpx.TimeoutException):
            if body and body.waiting:
                raise Problem(408, "the request's body did not come in time", {"connection": "close"}) from None
            raise Problem(504, f"{route.prefix} did not answer in time") from None
        if response.status_code > _HIGHEST_STATUS:
            await response.aclose()
            raise Problem(502, f"{route.prefix} gave no proper answer")
        return response

    async def _try_all(self, scope: Scope, body: "_Body | None", route: Route) -> httpx.Response:
        """Send to the first address that is there; once more if the connection broke and the request bears it."""
        candidates, repeated = deque(route.order()), False
        why: Exception | None = None
        while candidates:
            address = candidates.popleft()
            try:
                return await self._transport.handle_async_request(self._request(scope, body, address))
            except _REFUSING as error:
                why = error
                address.refuse(self._settings.skip_seconds)
            except _BROKEN as error:
                why = error
                if repeated or scope["method"] not in _IDEMPOTENT:
                    break
                repeated = True
                candidates = candidates or deque([address])
            if body and body.started:
                break  # it can be sent once
        logger.warning("%s cannot be reached: %s", route.prefix, why and f"{type(why).__name__}: {why}")
        raise Problem(502, f"{route.prefix} cannot be reached")

    def _request(self, scope: Scope, body: "_Body | None", address: Address) -> httpx.Request:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return httpx.Request(
            scope["method"],
            address.url,
            headers=request_headers(scope, address.host, trust=self._settings.trust_forwarded),
            stream=body or httpx.ByteStream(b""),
            extensions={"timeout": self._timeouts, "target": scope["raw_path"] + query},
        )


class _Place:
    """A place among the requests under way, given back once."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy: Proxy | None = proxy

    def give_back(self) -> None:
        if self._proxy:
            self._proxy._busy -= 1  # noqa: SLF001 - two halves of one thing
            self._proxy = None


class _Body(httpx.AsyncByteStream):
    """A request's body on its way through; it can be sent once."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.started = False
        self.waiting = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
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
