"""The gateway service."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from apps.gateway.proxy import Proxy
from apps.gateway.settings import Settings
from apps.shared.health import Health
from apps.shared.metrics import Metrics
from apps.shared.service import assemble


def create_app(settings: Settings) -> Starlette:
    """Make the service."""
    health, proxy = Health(), Proxy(settings)
    health.on_drain(proxy.relay.drain)

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with aclosing(proxy):
            yield

    routes = [Mount("/", app=proxy)]
    return assemble(settings, health, Metrics("gateway"), routes, resources=resources, body_limit=settings.body_bytes)
