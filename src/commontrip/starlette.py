"""Breakers in a Starlette app: refusals as responses, a lifespan, and routes to watch breakers and to order them.

board = BreakerRoutes(token=token)
breakers = Breakers(RedisStore.from_url(url), listeners=[board])
app = Starlette(routes=board.routes, lifespan=lifespan(breakers), exception_handlers={CircuitOpenError: circuit_open})
"""

import asyncio
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from math import ceil
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

# What is missing shall be named by the package that the extra is named after.
# isort: split
import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent

from commontrip import _check
from commontrip._breaker import Breaker, Snapshot
from commontrip._breakers import Breakers
from commontrip._errors import CircuitOpenError, StoreUnavailableError
from commontrip._listener import Applied, Listener, Report
from commontrip._transition import Epoch

_STREAMS = 1000  # at once
_BACKLOG = 1000  # events unsent to one client


async def circuit_open(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes both
    """Answer a `CircuitOpenError` with a problem (RFC 9457) of status 503, and `Retry-After` in seconds, at least 1."""
    refusal = cast("CircuitOpenError", error)
    return _reply(f"circuit {refusal.name} is open", 503, {"Retry-After": str(max(1, ceil(refusal.retry_after)))})


def lifespan(breakers: Breakers) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan that does `async with breakers: yield {"breakers": breakers}`, as one's own may do."""

    @asynccontextmanager
    async def run(_: object) -> AsyncIterator[Mapping[str, Any]]:
        async with breakers:
            yield {"breakers": breakers}

    return run


class BreakerRoutes(Listener):
    """`routes` under `/breakers`, to be mounted anywhere; a listener of `Breakers`, for the events.

    GET `/breakers`: what this replica knows of each; no round trip. GET `/breakers/{name}`: what the fleet knows, and
    its replicas with their lag (s); three round trips. GET `/breakers/{name}/transitions`: the last `count` (1 to 1000,
    by default 100); one round trip. Without the store both say what this replica knows, and `"source": "replica"`.
    GET `/breakers/events`: server-sent events: a `snapshot` of all, then each `transition` and `report`; for at most
    1000 clients, of whom one with 1000 events unsent is cut off, to come again. POST `/breakers/{name}/override`: JSON
    with `override` (null: automatic), `author`, `reason`, perhaps `seconds`, and `Authorization: Bearer <token>`.
    Errors are problems (RFC 9457). Known are the breakers of this process; reading is open to all.
    """

    def __init__(
        self, *, token: str | None = None, get_breakers: Callable[[Request], Breakers] = lambda r: r.state.breakers
    ) -> None:
        """Make them. Orders need the operators' `token`, and without one here are refused to everybody."""
        if token is not None and not token.strip():
            raise ValueError("token must be None or a text that is not blank")
        self._token = token
        self._breakers = get_breakers
        self._streams: set[_Stream] = set()
        self._closed = False
        nothing = _reply("there is nothing here, or not by this method", 404)
        self.routes = [
            Route("/breakers", _answer(self._all)),
            Route("/breakers/events", _answer(self._events)),
            Route("/breakers/{name}", _answer(self._one)),
            Route("/breakers/{name}/transitions", _answer(self._transitions)),
            Route("/breakers/{name}/override", _answer(self._override), methods=["POST"]),
            *(Route(path, nothing) for path in ("/breakers", "/breakers/{rest:path}")),
        ]

    def close(self) -> None:
        """End all event streams and begin none: an app that drains calls it. uvicorn's SIGTERM does so by itself."""
        self._closed = True
        self._send(b"")

    def on_transition(self, applied: Applied) -> None:
        """Send it to all clients."""
        number = f"{applied.breaker}/{applied.transition.epoch}"
        self._send(_event("transition", _plain(applied) | {"lag": applied.lag}, number))

    def on_report(self, report: Report) -> None:
        """Send its kind to all clients; its text is for the log, as it may name hosts."""
        self._send(_event("report", {"breaker": report.breaker, "kind": report.kind}))

    def _send(self, chunk: bytes) -> None:
        for stream in self._streams:
            stream.put(chunk)

    def _breaker(self, request: Request) -> Breaker:
        for breaker in self._breakers(request):
            if breaker.name == request.path_params["name"]:
                return breaker
        raise HTTPException(404, "this process has no such breaker")

    async def _all(self, request: Request) -> Response:
        return _reply([_shown(breaker, breaker.snapshot) for breaker in self._breakers(request)])

    async def _events(self, request: Request) -> Response:
        if self._closed or len(self._streams) >= _STREAMS:
            raise HTTPException(503, "no further event stream is served here", {"Retry-After": "5"})
        first = [_shown(breaker, breaker.snapshot) for breaker in self._breakers(request)]
        return _Stream(_event("snapshot", first), self._streams)

    async def _one(self, request: Request) -> Response:
        breakers, breaker, replicas = self._breakers(request), self._breaker(request), None
        snapshot = breaker.snapshot
        with suppress(StoreUnavailableError):
            snapshot = await breaker.read()
            replicas = None if snapshot.local else await breakers.fleet(breaker.name)
        more = {"source": "replica" if replicas is None else "fleet", "replica": breakers.replica, "replicas": replicas}
        return _reply(_shown(breaker, snapshot) | more)

    async def _transitions(self, request: Request) -> Response:
        breaker, count = self._breaker(request), int(request.query_params.get("count", "100"))
        last = breaker.snapshot.transition
        source, past = "replica", [(last, "")] if last else []
        with suppress(StoreUnavailableError):
            source, past = "fleet", await breaker.history(_check.whole("count", count, 1, 1000))
        return _reply({"source": source, "transitions": [_plain(made) | {"note": note} for made, note in past]})

    async def _override(self, request: Request) -> Response:
        if self._token is None:
            raise HTTPException(403, "no token is configured here: orders are refused")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not secrets.compare_digest(given.encode("latin-1"), self._token.encode()) or scheme.lower() != "bearer":
            raise HTTPException(401, "an order needs the operators' token", {"WWW-Authenticate": "Bearer"})
        breaker, order, needed = self._breaker(request), await request.json(), {"override", "author", "reason"}
        if not isinstance(order, dict) or not needed <= set(order) <= needed | {"seconds"}:
            raise ValueError("an order is a JSON object with override, author, reason and perhaps seconds")
        return _reply(_shown(breaker, await breaker.override(order.pop("override"), **order)))


class _Stream(EventSourceResponse):
    """One client's events. Those unsent are bounded: who is too slow is cut off, comes again and is told all anew."""

    def __init__(self, first: bytes, streams: "set[_Stream]") -> None:
        self._streams = streams
        self._unsent: list[bytes] = []
        self._news = asyncio.Event()
        self._cut = anyio.CancelScope()
        self.put(first)
        down = anyio.Event()

        async def end() -> None:
            await down.wait()
            self.put(b"")

        super().__init__(self._chunks(), data_sender_callable=end, shutdown_event=down, shutdown_grace_period=1)

    def put(self, event: bytes) -> None:  # an empty one is the last
        self._unsent.append(event)
        self._news.set()
        if len(self._unsent) > _BACKLOG:
            self._cut.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        events: list[bytes] = []
        while b"" not in events:
            await self._news.wait()
            self._news.clear()
            events, self._unsent = self._unsent, []
            yield b"".join(events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.add(self)
        try:
            with self._cut:
                await super().__call__(scope, receive, send)
        finally:
            self._streams.discard(self)


def _answer(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as error:
            return _reply(error.detail, error.status_code, error.headers)
        except (ValueError, OverflowError, RecursionError) as error:
            return _reply(str(error), 400)
        except StoreUnavailableError:
            return _reply("the store did not confirm it: look before you repeat it", 503, {"Retry-After": "1"})

    return answer


def _shown(breaker: Breaker, known: Snapshot) -> Any:
    policy = breaker.policy
    return _plain(known) | {"trip": repr(policy.trip), "window": policy.window, "probes": policy.recover.probes}


def _plain(record: Any) -> Any:  # what JSON does not know
    names = () if isinstance(record, Epoch) else [field.name for field in dataclasses.fields(record)]
    return {name: getattr(record, name) for name in names} or str(record)


def _event(kind: str, data: object, number: str | None = None) -> bytes:
    return ServerSentEvent(json.dumps(data, default=_plain), event=kind, id=number).encode()


def _reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} | dict(headers or {})
    if status == HTTPStatus.OK:
        return Response(json.dumps(body, default=_plain), status, safe, "application/json")
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": body}
    return Response(json.dumps(problem), status, safe, "application/problem+json")
