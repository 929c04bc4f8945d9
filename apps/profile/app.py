"""The profile service: its own data joined with what auth says, and the breaker's routes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import ceil, inf
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apps.profile import people
from apps.profile.client import AuthClient, AuthUnavailableError
from apps.profile.clock import StoreClock
from apps.profile.known import Roles
from apps.profile.memory import Memory
from apps.profile.settings import Fallback, Settings
from apps.profile.shelf import Shelf
from apps.shared.health import Health
from apps.shared.metrics import Metrics
from apps.shared.problems import Problem
from apps.shared.redis import connect
from apps.shared.service import assemble
from apps.shared.tracing import Tracing
from apps.shared.users import user_id
from commontrip import Breakers
from commontrip.opentelemetry import Telemetry
from commontrip.redis import RedisStore
from commontrip.starlette import BreakerRoutes

BREAKER = "auth"
_MOST_BODY = 65_536
_FLUSH_SECONDS, _CLOSING_SECONDS = 0.5, 1.5  # for spans of transitions, before the fleet is left and after


def create_app(settings: Settings) -> Starlette:
    """Make the service; raises `SettingsError` if the profiles cannot be read."""
    health, metrics = Health(), Metrics("profile")
    tracing = Tracing(metrics.resource)
    telemetry = Telemetry(tracing.exporter(), resource=metrics.resource, meter_provider=metrics.provider)
    board = BreakerRoutes(
        token=settings.override_token.get_secret_value() or None,
        get_breakers=lambda request: request.app.state.breakers,
    )
    health.on_drain(board.close)
    breakers = Breakers(
        RedisStore.from_url(settings.redis_address, prefix=settings.redis_prefix, ttl=settings.breaker_ttl_seconds),
        listeners=[telemetry, board],
        store_budget=settings.breaker_store_budget_seconds,
        replica=settings.replica,
    )
    profiles = Profiles(people.load(settings.people_path or people.SAMPLE), settings.fallback)

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(telemetry.aclose, _CLOSING_SECONDS)
            await stack.enter_async_context(breakers)
            stack.push_async_callback(telemetry.flush, _FLUSH_SECONDS)
            breaker = breakers.get(BREAKER, settings.policy)
            await breaker.read()  # the first request shall not have to wait for what holds in the fleet
            if settings.fallback is Fallback.STALE:
                profiles.memory = await stack.enter_async_context(_memory(settings))
            client = AuthClient(settings, breaker if settings.breaker_enabled else None, breakers.replica, tracing)
            stack.push_async_callback(client.aclose)
            profiles.client = client
            yield

    routes = [Route("/profile/{user_id}", profiles.show), *board.routes, *board.console]
    app = assemble(settings, health, metrics, routes, resources=resources, body_limit=_MOST_BODY, tracing=tracing)
    app.state.breakers = breakers
    return app


def _memory(settings: Settings) -> Memory:
    clock, age = StoreClock(monotonic), settings.fallback_age_seconds
    shelf = Shelf(connect(settings), settings.redis_prefix, age, clock)
    budget = settings.breaker_store_budget_seconds
    return Memory(shelf, clock, most_age=age, budget=budget, users=settings.fallback_users)


class Profiles:
    """`GET /profile/{user_id}`; every answer says where its auth info came from."""

    client: AuthClient

    def __init__(self, known: dict[str, dict[str, Any]], fallback: Fallback) -> None:
        self._known = known
        self._fallback = fallback
        self.memory: Memory | None = None

    async def show(self, request: Request) -> Response:
        """Join the profile with the auth info."""
        user = user_id(request)
        if user not in self._known:
            raise Problem(404, "there is no such profile")
        auth = await self._auth(user)
        answer = {"user_id": user, "profile": self._known[user], "auth": auth}
        return JSONResponse(answer, headers={"cache-control": "no-store"})  # roles are for who asks, now

    async def _auth(self, user: str) -> dict[str, Any]:
        question = self.memory.ask() if self.memory else None
        try:
            answer = await self.client.ask(user)
        except AuthUnavailableError as error:
            return await self._without(user, error)
        if answer is None:
            if self.memory and question:
                await self.memory.refuse(user, question)
            return _said("live", refused=True, age=0.0)
        roles, valid_for = answer
        if self.memory and question:
            self.memory.learn(user, question, roles, valid_for)
        return _said("live", roles, age=0.0, valid_for=valid_for)

    async def _without(self, user: str, error: AuthUnavailableError) -> dict[str, Any]:
        if self._fallback is Fallback.FAIL:
            wait = str(max(1, ceil(error.retry_after)))
            raise Problem(503, f"auth cannot be asked: {error.reason}", {"retry-after": wait})
        remembered = await self.memory.recall(user) if self.memory else None
        if remembered:
            roles, age, valid_for = remembered
            return _said("stale", roles, age=age, valid_for=valid_for, reason=error.reason)
        return _said("unknown", reason=error.reason)


def _said(
    source: str,
    roles: Roles = (),
    *,
    age: float | None = None,
    valid_for: float = inf,
    refused: bool = False,
    reason: str | None = None,
) -> dict[str, Any]:
    return {
        "source": source,
        "age_seconds": None if age is None else round(age, 3),
        "roles": roles,
        "valid_for_seconds": None if valid_for == inf else round(valid_for, 3),
        "refused": refused,
        "reason": reason,
    }
