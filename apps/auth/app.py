"""The auth service: users, the witness, and faults."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apps.auth import users
from apps.auth.faults import Fault, Faults
from apps.auth.settings import Settings
from apps.auth.spoil import spoil
from apps.auth.stats import Stats
from apps.shared.health import Health
from apps.shared.metrics import Metrics
from apps.shared.problems import Problem
from apps.shared.redis import AWAY, connect
from apps.shared.service import assemble
from apps.shared.users import user_id

_MOST_BODY = 4_096
_UNKEPT = {"cache-control": "no-store"}  # roles are for who asks, now
_SAMPLE = Path(__file__).with_name("users.json")


def create_app(settings: Settings) -> Starlette:
    """Make the service; raises `SettingsError` if the users cannot be read."""
    health = Health()
    faults = Faults(connect(settings), settings.redis_prefix) if settings.faults else None
    if faults:
        health.on_drain(faults.drain)

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if faults:
                await stack.enter_async_context(faults.watching())
            yield

    routes = Auth(settings, users.load(settings.users_path or _SAMPLE), faults).routes
    return assemble(settings, health, Metrics("auth"), routes, resources=resources, body_limit=_MOST_BODY)


class Auth:
    """The endpoints."""

    def __init__(self, settings: Settings, known: dict[str, users.User], faults: Faults | None) -> None:
        self._known = known
        self._faults = faults
        self._stats = Stats()
        self._longest = settings.fault_max_seconds
        self._token = settings.token.get_secret_value().encode()
        self.routes = [
            Route("/users/{user_id}", self._user),
            Route("/stats", self._report),
            Route("/faults", self._ordered, methods=["GET", "PUT", "DELETE"]),
        ]

    async def _user(self, request: Request) -> Response:
        self._stats.arrived(request.headers.get("x-replica", ""))
        self._authorize(request)
        name = user_id(request)
        fault = self._faults.strike() if self._faults else None
        answer = self._info(name) if not fault or fault.kind in ("slow", "truncate") else None
        if self._faults and fault and (spoilt := await spoil(fault, self._faults, request, answer)):
            return spoilt
        return JSONResponse(answer or self._info(name), headers=_UNKEPT)

    def _info(self, name: str) -> dict[str, object]:
        if name not in self._known:
            raise Problem(404, "there is no such user")
        return self._known[name].info(name)

    async def _report(self, _: Request) -> Response:
        return JSONResponse(self._stats.report())

    async def _ordered(self, request: Request) -> Response:
        if self._faults is None:
            raise Problem(404, "faults cannot be ordered here: AUTH_FAULTS is not set")
        self._authorize(request)
        try:
            if request.method == "PUT":
                await self._faults.order(await self._order(request))
            elif request.method == "DELETE":
                await self._faults.take_back()
        except AWAY:
            raise Problem(503, "faults are kept in Redis, which does not answer", {"retry-after": "1"}) from None
        now = self._faults.now
        return JSONResponse({**now[0].model_dump(), "expires_seconds": round(now[1], 3)} if now else None)

    async def _order(self, request: Request) -> Fault:
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg'].lower()}" for one in error.errors()]
            raise Problem(400, "; ".join(lines)) from None
        if fault.expires_seconds > self._longest:
            raise Problem(400, f"expires_seconds: a fault lasts at most {self._longest:g} s")
        return fault

    def _authorize(self, request: Request) -> None:
        if not self._token:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode("latin-1"), self._token):
            raise Problem(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
