"""Around every request: its name, its trace, its place in log and metrics; and nothing is raised out of the app."""

import asyncio
import logging
import re
import secrets
from contextlib import suppress
from time import perf_counter

from opentelemetry import context, propagate, trace
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.shared import connection
from apps.shared.health import PATHS, Health
from apps.shared.logs import request_id
from apps.shared.metrics import Metrics
from apps.shared.problems import problem

logger = logging.getLogger("apps.requests")

_LEGAL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE = frozenset({b"traceparent", b"tracestate", b"baggage"})
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"  # one series, whatever strangers ask for
GONE = 499
"""Logged as the status where the client went away first."""


class Requests:
    """Outermost middleware: a request has an id (the client's, if it is a legal one), and one answer at most.

    What nobody caught is logged once, with its traceback, and answered by a problem that tells nothing of it.
    """

    def __init__(
        self, app: ASGIApp, *, health: Health, metrics: Metrics, access_log: bool, connection_age: float
    ) -> None:
        self._app = app
        self._health = health
        self._metrics = metrics
        self._access_log = access_log
        self._connection_age = connection_age

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HTTP; refuse websockets; pass the lifespan on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            name, carrier = _identify(scope)
            request = request_id.set(name)
            untraced = trace.get_current_span() is trace.INVALID_SPAN
            attached = context.attach(propagate.extract(carrier)) if carrier and untraced else None
            try:
                await self._serve(scope, receive, send)
            finally:
                if attached:
                    context.detach(attached)
                request_id.reset(request)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, answer = perf_counter(), _Answer(send, self._closing(scope))
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass
        except connection.BrokenOffError:
            raise
        except asyncio.CancelledError:
            with suppress(connection.BrokenOffError):
                connection.abort(scope)  # the server's time to finish is over
                return
            raise
        except Exception:
            logger.exception("%s %s failed", scope["method"], route_of(scope) or _NO_ROUTE)
            if answer.status:
                connection.abort(scope)
            else:
                await problem(500, "this is our mistake; it has been noted")(scope, receive, answer)
        finally:
            self._note(scope, answer.status or GONE, perf_counter() - started)

    def _closing(self, scope: Scope) -> bool:
        """Whether the connection shall end: so that a draining one is left, and a new replica gets its share."""
        return self._health.draining or connection.age(scope) > self._connection_age

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        if scope["path"] in PATHS:
            return
        method, route = scope["method"], route_of(scope) or _NO_ROUTE
        self._metrics.request(seconds, method if method in KNOWN_METHODS else "_OTHER", route, status)
        if self._access_log:
            fields = {"method": method, "path": scope["path"], "route": route, "status": status}
            logger.info("%s %s %d", method, route, status, extra=fields | {"milliseconds": round(seconds * 1000, 1)})


class _Answer:
    """Sends, and remembers the status that was sent."""

    def __init__(self, send: Send, closing: bool) -> None:  # noqa: FBT001 - made in one place
        self.status = 0
        self._send = send
        self._closing = closing

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(b"x-request-id", request_id.get().encode())]
            own += [(b"connection", b"close")] if self._closing else []
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await self._send(message)


def _identify(scope: Scope) -> tuple[str, dict[str, str]]:
    name, carrier = "", {}
    for header, value in scope["headers"]:
        if header == b"x-request-id" and _LEGAL_ID.fullmatch(given := value.decode("latin-1")):
            name = given
        elif header in _TRACE:
            carrier[header.decode()] = value.decode("latin-1")
    return name or secrets.token_hex(16), carrier


def route_of(scope: Scope) -> str:
    """Return the pattern that matched, '' if none did."""
    return str(scope.get("http.route") or getattr(scope.get("route"), "path", ""))
