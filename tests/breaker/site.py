"""An app with the breakers' routes, asked as a server would ask it."""

import asyncio
import json
from typing import Any, Self

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from commontrip import Breaker, Breakers, CircuitOpenError, ConsecutiveFailures, Cooldown, Policy, SuccessRatio
from commontrip.starlette import BreakerRoutes, circuit_open
from tests.support.waiting import eventually

TOKEN = "correct horse"  # noqa: S105 - opens nothing
POLICY = Policy(trip=ConsecutiveFailures(1), recover=SuccessRatio(1, probes=1), cooldown=Cooldown(30, jitter=0))
ORDER = {"override": "FORCED_OPEN", "author": "ann", "reason": "tests the brakes", "seconds": 60}


class AwayError(Exception):
    """What the guarded code raises."""


class Site:
    """An app with the board in it, and what it takes to ask it."""

    def __init__(self, board: BreakerRoutes, breakers: Breakers, prefix: str = "") -> None:
        routes: list[BaseRoute] = [*board.routes, *board.console]
        if prefix:
            routes = [Mount(prefix, routes=routes)]
        self.app = Starlette(routes=routes, exception_handlers={CircuitOpenError: circuit_open})
        self.board = board
        self.breakers = breakers
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://site")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Stand between a server and the app: a server hands on the lifespan's state."""
        await self.app(scope | {"state": {"breakers": self.breakers}}, receive, send)

    async def get(self, path: str) -> Any:
        """Return the JSON of a page."""
        return body_of(await self.client.get(path), 200)

    async def refused(self, status: int, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        """Ask for something, and see it refused with a problem of that status."""
        response = await self.client.request(method, path, **request)
        assert body_of(response, status)["status"] == status
        return response

    async def order(self, name: str = "auth", **fields: Any) -> Any:
        """Give an order with the right token, and return the answer."""
        answer = await self.client.post(
            f"/breakers/{name}/override", json=ORDER | fields, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        return body_of(answer, 200)


def body_of(response: httpx.Response, status: int) -> Any:
    """Return the JSON of an answer of that status, a problem unless it is 200."""
    kind = "application/json" if status == 200 else "application/problem+json"
    assert (response.status_code, response.headers["content-type"]) == (status, kind)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    return response.json()


async def trip(breaker: Breaker) -> None:
    """Fail once under the breaker, which is enough."""
    with pytest.raises(AwayError):
        async with breaker:
            raise AwayError


class Watcher:
    """A client of the event stream, as a server sees it; it reads as fast as `reads` lets it."""

    def __init__(self, site: Site, path: str = "/breakers/events", method: str = "GET") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        """The response was sent to its end, and not broken off."""
        self.reads = asyncio.Event()
        self.reads.set()
        self.left = asyncio.Event()
        self._seen = 0
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
            "query_string": b"", "root_path": "", "headers": [], "scheme": "http",
        }  # fmt: skip
        self._site = site

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._site(self._scope, self._receive, self._send))
        await eventually(lambda: bool(self.status), "the response to begin")
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.left.set()
        self.reads.set()
        async with asyncio.timeout(5):
            await self.task

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            await self.reads.wait()
            self.body += message["body"]
            self.ended = not message.get("more_body", False)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What has come: event, id and data of each."""
        blocks = [block for block in self.body.decode().split("\r\n\r\n") if block]
        parsed = [dict(line.split(": ", 1) for line in block.split("\r\n")) for block in blocks]
        return [event | {"data": json.loads(event["data"])} for event in parsed]

    async def next(self) -> dict[str, Any]:
        """Wait for the next event."""
        await eventually(lambda: len(self.events) > self._seen, "an event")
        self._seen += 1
        return self.events[self._seen - 1]
