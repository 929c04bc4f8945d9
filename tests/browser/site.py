"""A small service with breakers, their routes and the console: `python -m tests.browser.site '{"url": …}'`.

POST /call/NAME?outcome=ok|fail|hold&times=N makes calls; POST /release ends those that hold; GET /ping answers.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from commontrip import Breaker, Breakers, CircuitOpenError, Cooldown, FailureRate, Policy, SuccessRatio
from commontrip.redis import RedisStore
from commontrip.starlette import BreakerRoutes


class AuthTimeoutError(Exception):
    """What the guarded code raises."""


def policy(cooldown: float) -> Policy:
    """Return what all breakers of the site go by."""
    return Policy(
        trip=FailureRate(0.5, minimum_calls=20),
        recover=SuccessRatio(0.6, probes=5),
        cooldown=Cooldown(cooldown, jitter=0, maximum=max(cooldown, 300.0)),
    )


class Site:
    """The app; settings: url, prefix, replica, names of breakers, cooldown (s), token, mount, history, budget (s).

    Breakers in `names` have been used, those in `idle` not.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._released = asyncio.Event()
        self._waiting: set[asyncio.Task[str]] = set()
        board = BreakerRoutes(token=settings.get("token"), get_breakers=lambda _: self.breakers)
        store = RedisStore.from_url(settings["url"], prefix=settings["prefix"], history=settings.get("history", 100))
        budget = settings.get("budget", 5.0)
        self.breakers = Breakers(store, listeners=[board], replica=settings["replica"], store_budget=budget)
        routes = [*board.routes, *board.console]
        mounted = [Mount(settings["mount"], routes=routes)] if settings.get("mount") else routes
        own = [
            Route("/ping", self._ping),
            Route("/call/{name}", self._call, methods=["POST"]),
            Route("/release", self._release, methods=["POST"]),
        ]
        self.app = Starlette(routes=[*own, *mounted], lifespan=self._lifespan)
        self.app.router.redirect_slashes = False

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.breakers:
            for name in self._settings["names"]:
                breaker = self.breakers.get(name, policy(self._settings.get("cooldown", 30.0)))
                await self._one(breaker, "ok")
            for name in self._settings.get("idle", []):
                self.breakers.get(name)
            yield
            self._released.set()

    async def _ping(self, _: Request) -> Response:
        return PlainTextResponse("pong")

    async def _call(self, request: Request) -> Response:
        breaker, query = self.breakers.get(request.path_params["name"]), request.query_params
        calls = [self._one(breaker, query["outcome"]) for _ in range(int(query.get("times", "1")))]
        if query["outcome"] == "hold":
            self._waiting |= {asyncio.ensure_future(call) for call in calls}
            return JSONResponse({"state": breaker.state})
        said = await asyncio.gather(*calls)
        return JSONResponse({"state": breaker.state, "said": said})

    async def _one(self, breaker: Breaker, outcome: str) -> str:
        try:
            async with breaker:
                await self._do(outcome)
        except AuthTimeoutError:
            return "failed"
        except CircuitOpenError:
            return "refused"
        return "ok"

    async def _do(self, outcome: str) -> None:
        if outcome == "fail":
            raise AuthTimeoutError
        if outcome == "hold":
            await self._released.wait()

    async def _release(self, _: Request) -> Response:
        self._released.set()
        await asyncio.gather(*self._waiting)
        return JSONResponse({})


def main() -> None:
    """Serve until told to end."""
    settings = json.loads(sys.argv[1])
    site = Site(**settings)
    uvicorn.run(site.app, port=settings["port"], log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
