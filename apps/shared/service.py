"""`assemble`: an app with what every service has around its own routes."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from apps.shared.health import Health
from apps.shared.limits import Limits
from apps.shared.metrics import Metrics
from apps.shared.problems import on_error
from apps.shared.requests import Requests
from apps.shared.settings import ServiceSettings
from apps.shared.tracing import Tracing


def assemble(
    settings: ServiceSettings,
    health: Health,
    metrics: Metrics,
    routes: Sequence[BaseRoute],
    *,
    resources: Callable[[], AbstractAsyncContextManager[None]],
    body_limit: int,
    tracing: Tracing | None = None,
) -> Starlette:
    """Make the app. `resources` are opened before it is ready and closed after its last answer, spans sent after that.

    Who makes spans of its own requests brings the `tracing`.
    """
    tracing = tracing or Tracing(metrics.resource)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with tracing, resources():
            health.started = True
            yield
            health.drain()

    logged, age = settings.access_log, settings.connection_age_seconds
    app = Starlette(
        routes=[*health.routes, *routes],
        lifespan=lifespan,
        middleware=[
            *tracing.middleware,
            Middleware(Requests, health=health, metrics=metrics, access_log=logged, connection_age=age),
            Middleware(Limits, body=body_limit),
        ],
        exception_handlers={HTTPException: on_error},
    )
    app.router.redirect_slashes = False  # a path that is not ours is answered, not rewritten into a header
    app.state.health, app.state.metrics = health, metrics
    return app
