"""The proxy: a request goes out as it came in, and its answer comes back as it was given, chunk by chunk."""

import asyncio
import logging
from collections import deque

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from apps.gateway.caller import Caller
from apps.gateway.headers import has_body, request_headers
from apps.gateway.relay import Relay
from apps.gateway.routes import Address, Route, Table
from apps.gateway.settings import Settings
from apps.shared.connections import Connections
from apps.shared.problems import Problem
from apps.shared.tracing import Tracing

logger = logging.getLogger("apps.proxy")

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_PASSED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_REFUSING = (httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
_HIGHEST_STATUS = 599


class Proxy:
    """An ASGI app. At most so many requests at once, and each with a deadline for its first byte."""

    def __init__(self, settings: Settings, tracing: Tracing) -> None:
        self._settings = settings
        self._table = Table(settings.routes)
        self._busy = 0
        self.relay = Relay(settings)
        # A transport and no client: a client would keep one caller's cookies for the next.
        self._connections = Connections(settings.concurrency + settings.streams)
        self._transport = tracing.transport(self._connections)
        idle = settings.idle_seconds
        self._timeouts = {"connect": settings.connect_seconds, "read": idle, "write": idle, "pool": None}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what goes wrong before the answer has begun is a `Problem`."""
        if scope["method"] in _REFUSED_METHODS:
            raise Problem(405, "this method is not passed on", {"allow": _PASSED_METHODS})
        route = self._table.find(scope["raw_path"])
        scope["http.route"] = route.prefix
        if self._busy >= self._settings.concurrency:
            raise Problem(503, "too many requests are under way", {"retry-after": "1"})
        self._busy += 1
        place, caller = _Place(self), Caller(receive, sends=has_body(scope["headers"]))
        watch = asyncio.create_task(caller.watch())
        try:
            response = await self._fetch(scope, caller, route)
            await self.relay(response, scope, caller, send, place.give_back)
        finally:
            place.give_back()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _fetch(self, scope: Scope, caller: Caller, route: Route) -> httpx.Response:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._settings.first_byte_seconds) as limit:
                caller.when_gone(lambda: limit.reschedule(clock()))
                response = await self._try_all(scope, caller, route)
        except httpx.LocalProtocolError:
            raise Problem(400, "the request's head cannot be passed on") from None
        except (TimeoutError, httpx.TimeoutException):
            if caller.gone:
                raise ClientDisconnect from None
            if caller.waiting:
                raise Problem(408, "the request's body did not come in time", {"connection": "close"}) from None
            raise Problem(504, f"{route.prefix} did not answer in time") from None
        caller.answered()
        if response.status_code > _HIGHEST_STATUS:
            await response.aclose()
            raise Problem(502, f"{route.prefix} gave no proper answer")
        return response

    async def _try_all(self, scope: Scope, caller: Caller, route: Route) -> httpx.Response:
        """Send to the first address that is there; once more if the connection broke and the request bears it."""
        candidates, repeated = deque(route.order()), False
        why: Exception | None = None
        while candidates:
            address = candidates.popleft()
            try:
                return await self._transport.handle_async_request(self._request(scope, caller, address))
            except (asyncio.CancelledError, httpx.ReadTimeout, httpx.WriteTimeout):
                if not (caller.gone or caller.waiting):  # else it is the caller who was not in time
                    address.refuse(self._settings.skip_seconds)
                raise
            except _REFUSING as error:
                why = error
                address.refuse(self._settings.skip_seconds)
            except _BROKEN as error:
                why = error
                if repeated or scope["method"] not in _IDEMPOTENT:
                    break
                repeated = True
                candidates = candidates or deque([address])
            if caller.started:
                break  # it can be sent once
        logger.warning("%s cannot be reached: %s", route.prefix, why and f"{type(why).__name__}: {why}")
        raise Problem(502, f"{route.prefix} cannot be reached")

    def _request(self, scope: Scope, caller: Caller, address: Address) -> httpx.Request:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return httpx.Request(
            scope["method"],
            address.url,
            headers=request_headers(scope, address.host, trust=self._settings.trust_forwarded),
            stream=caller if caller.sends else httpx.ByteStream(b""),
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
