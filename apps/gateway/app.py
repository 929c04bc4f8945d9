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
from apps.shared.tracing import Tracing


def create_app(settings: Settings) -> Starlette:
    """Make the service."""
    health, metrics = Health(), Metrics("gateway")
    tracing = Tracing(metrics.resource)
    proxy = Proxy(settings, tracing)
    health.on_drain(proxy.relay.drain)

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with aclosing(proxy):
            yield

    routes = [Mount("/", app=proxy)]
    most = settings.body_bytes
    return assemble(settings, health, metrics, routes, resources=resources, body_limit=most, tracing=tracing)
