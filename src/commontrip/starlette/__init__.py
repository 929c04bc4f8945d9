"""Breakers in a Starlette app: refusals as responses, a lifespan, and routes to watch breakers and to order them.

board = BreakerRoutes(token=token)
breakers = Breakers(RedisStore.from_url(url), listeners=[board])
routes = [*board.routes, *board.console]
app = Starlette(routes=routes, lifespan=lifespan(breakers), exception_handlers={CircuitOpenError: circuit_open})
"""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from math import ceil
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from commontrip import _check
from commontrip._breaker import Breaker, Snapshot
from commontrip._breakers import Breakers
from commontrip._errors import CircuitOpenError, StoreUnavailableError
from commontrip._listener import Applied, Listener, Report
from commontrip.starlette._answers import answering, event, plain, reply
from commontrip.starlette._files import page
from commontrip.starlette._stream import Hub, Stream
from commontrip.starlette._watch import Watch

_BACKLOG = 1000  # events unsent to one client


async def circuit_open(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette passes both
    """Answer a `CircuitOpenError` with a problem (RFC 9457) of status 503, and `Retry-After` in seconds, at least 1."""
    refusal = cast("CircuitOpenError", error)
    return reply(f"circuit {refusal.name} is open", 503, {"Retry-After": str(max(1, ceil(refusal.retry_after)))})


def lifespan(breakers: Breakers) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan that does `async with breakers: yield {"breakers": breakers}`, as one's own may do."""

    @asynccontextmanager
    async def run(_: object) -> AsyncIterator[Mapping[str, Any]]:
        async with breakers:
            yield {"breakers": breakers}

    return run


class BreakerRoutes(Listener):
    """`routes` under `/breakers`, `console` under `/console`, to be mounted anywhere; a listener of `Breakers`.

    GET `/breakers`: what this replica knows of each; no round trip. GET `/breakers/{name}`: what the fleet knows, and
    its replicas with their lag (s); three round trips. GET `/breakers/{name}/transitions`: the last `count` (1 to 1000,
    by default 100); one round trip. Without the store both say what this replica knows, and `"source": "replica"`.
    GET `/breakers/events`: server-sent events: a `snapshot` of all, then each `transition` and `report`; for at most
    1000 clients, of whom one with 1000 events unsent is cut off, to come again. POST `/breakers/{name}/override`: JSON
    with `override` (null: automatic), `author`, `reason`, perhaps `seconds`, and `Authorization: Bearer <token>`.
    Errors are problems (RFC 9457). Known are the breakers of this process; reading is open to all.

    GET `/console/`: a live page of all breakers (200 at most), for people. It needs nothing but what is under
    `/console`, and the token for orders only, which it keeps in memory. However many watch a replica, it asks the store
    once a second for them all: one round trip for 20 breakers; for each breaker one more after a transition, two a
    second for the 5 s that follow it, and two every 10 s. While nobody watches, and in local mode, it asks nothing.
    """

    def __init__(
        self, *, token: str | None = None, get_breakers: Callable[[Request], Breakers] = lambda r: r.state.breakers
    ) -> None:
        """Make them. Orders need the operators' `token`, and without one here are refused to everybody."""
        if token is not None and not token.strip():
            raise ValueError("token must be None or a text that is not blank")
        self._token = token
        self._breakers = get_breakers
        self._hub = Hub(_BACKLOG)
        self._watch = Watch(orders=token is not None)
        nothing = reply("there is nothing here, or not by this method", 404)
        self.routes = [
            Route("/breakers", answering(self._all)),
            Route("/breakers/events", answering(self._events)),
            Route("/breakers/{name}", answering(self._one)),
            Route("/breakers/{name}/transitions", answering(self._transitions)),
            Route("/breakers/{name}/override", answering(self._override), methods=["POST"]),
            *(Route(path, nothing) for path in ("/breakers", "/breakers/{rest:path}")),
        ]
        self.console = [
            *page(),
            Route("/console/events", answering(self._watched)),
            Route("/console/override", answering(self._override), methods=["POST"]),
            *(Route(path, nothing) for path in ("/console", "/console/{rest:path}")),
        ]

    def close(self) -> None:
        """End all event streams, and those that come at once: an app that drains calls it, uvicorn's SIGTERM too."""
        self._hub.close()
        self._watch.hub.close()

    def on_transition(self, applied: Applied) -> None:
        """Send it to all clients."""
        number = f"{applied.breaker}/{applied.transition.epoch}"
        self._hub.send(event("transition", plain(applied) | {"lag": applied.lag}, number))
        self._watch.heard(applied)

    def on_report(self, report: Report) -> None:
        """Send its kind to all clients; its text is for the log, as it may name hosts."""
        self._hub.send(event("report", {"breaker": report.breaker, "kind": report.kind}))

    def _breaker(self, request: Request) -> Breaker:
        name = request.path_params.get("name") or request.query_params.get("breaker")
        for breaker in self._breakers(request):
            if breaker.name == name:
                return breaker
        raise HTTPException(404, "this process has no such breaker")

    async def _all(self, request: Request) -> Response:
        return reply([_shown(breaker, breaker.snapshot) for breaker in self._breakers(request)])

    async def _events(self, request: Request) -> Response:
        first = [_shown(breaker, breaker.snapshot) for breaker in self._breakers(request)]
        return self._over(self._hub) or Stream(event("snapshot", first), self._hub)

    async def _watched(self, request: Request) -> Response:
        return self._over(self._watch.hub) or self._watch.stream(self._breakers(request))

    @staticmethod
    def _over(hub: Hub) -> Response | None:
        if hub.closed:  # after a stream that ends an EventSource comes again, elsewhere; after an error it does not
            return Response("retry: 1000\n\n", headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
        if hub.full:
            raise HTTPException(503, "no further event stream is served here", {"Retry-After": "5"})
        return None

    async def _one(self, request: Request) -> Response:
        breakers, breaker, replicas = self._breakers(request), self._breaker(request), None
        snapshot = breaker.snapshot
        with suppress(StoreUnavailableError):
            snapshot = await breaker.read()
            replicas = None if snapshot.local else await breakers.fleet(breaker.name)
        more = {"source": "replica" if replicas is None else "fleet", "replica": breakers.replica, "replicas": replicas}
        return reply(_shown(breaker, snapshot) | more)

    async def _transitions(self, request: Request) -> Response:
        breaker, count = self._breaker(request), int(request.query_params.get("count", "100"))
        last = breaker.snapshot.transition
        source, past = "replica", [(last, "")] if last else []
        with suppress(StoreUnavailableError):
            source, past = "fleet", await breaker.history(_check.whole("count", count, 1, 1000))
        return reply({"source": source, "transitions": [plain(made) | {"note": note} for made, note in past]})

    async def _override(self, request: Request) -> Response:
        if self._token is None:
            raise HTTPException(403, "no token is configured here: orders are refused")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not secrets.compare_digest(given.encode("latin-1"), self._token.encode()) or scheme.lower() != "bearer":
            raise HTTPException(401, "an order needs the operators' token", {"WWW-Authenticate": "Bearer"})
        breaker, order, needed = self._breaker(request), await request.json(), {"override", "author", "reason"}
        if not isinstance(order, dict) or not needed <= set(order) <= needed | {"seconds"}:
            raise ValueError("an order is a JSON object with override, author, reason and perhaps seconds")
        return reply(_shown(breaker, await breaker.override(order.pop("override"), **order)))


def _shown(breaker: Breaker, known: Snapshot) -> Any:
    policy = breaker.policy
    return plain(known) | {"trip": repr(policy.trip), "window": policy.window, "probes": policy.recover.probes}
