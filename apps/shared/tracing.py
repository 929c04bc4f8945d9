"""Tracing: spans leave by OTLP/HTTP if the environment says where to; if it does not, there is none to pay for.

The SDK's variables are heeded: OTEL_EXPORTER_OTLP_…, OTEL_TRACES_SAMPLER, OTEL_BSP_…, OTEL_SDK_DISABLED and the like.
"""

import asyncio
import os
import threading
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.shared.health import PATHS
from apps.shared.requests import KNOWN_METHODS, route_of
from apps.shared.settings import SettingsError

CLOSING_SECONDS = 1.0
"""So long the end of the process waits for the spans of requests."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_CONVENTIONS = "OTEL_SEMCONV_STABILITY_OPT_IN"  # without it the instrumentations use names that are no longer in force


class Tracing(AbstractAsyncContextManager["Tracing"]):
    """One process's spans of requests. Left last of all, so that no span comes later.

    Where nothing is exported there is one mechanism for a trace's context: `Requests` takes it from the headers, and
    who asks others passes it on. Where spans are, it is the instrumentation's.
    """

    def __init__(self, resource: Resource) -> None:
        """Read the environment; raises `SettingsError` if an endpoint is set that cannot be used."""
        self.exports = _exports()
        if self.exports:
            os.environ.setdefault(_CONVENTIONS, "http")
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def exporter(self) -> OTLPSpanExporter | None:
        """Return another exporter to the same place, for spans that have a queue of their own."""
        return OTLPSpanExporter() if self.exports else None

    @property
    def middleware(self) -> list[Middleware]:
        """What goes around the app, outermost."""
        return [Middleware(_Traced, provider=self._provider)] if self.exports else []

    def transport(self, plain: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """Return a transport that makes a span of every attempt, and passes its context on."""
        if not self.exports:
            return plain
        return AsyncOpenTelemetryTransport(plain, self._provider, NoOpMeterProvider())

    async def __aexit__(self, *raised: object) -> None:
        """Send what waits, in a thread that nothing waits for when its time is over."""
        if self.exports:
            closing = threading.Thread(target=self._provider.shutdown, name="spans leave", daemon=True)
            closing.start()
            deadline = monotonic() + CLOSING_SECONDS
            while closing.is_alive() and monotonic() < deadline:  # noqa: ASYNC110 - a thread sets no event of a loop
                await asyncio.sleep(0.01)


class _Traced:
    """A span around every request but those for health, and event streams: a span of an hour says nothing."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._plain = app
        self._traced = OpenTelemetryMiddleware(
            _Named(app),
            default_span_details=_first_name,
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),  # `Requests` measures already
            exclude_spans=["receive", "send"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, in a span or without."""
        plain = scope["type"] != "http" or scope["path"] in PATHS or _is_stream(scope)
        await (self._plain if plain else self._traced)(scope, receive, send)


class _Named:
    """Names the span by the pattern that matched, which is known when the answer begins; a path is no name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = trace.get_current_span()

        async def named(message: Message) -> None:
            route = route_of(scope)
            if message["type"] == "http.response.start" and route and span.is_recording():
                span.update_name(f"{_first_name(scope)[0]} {route}")
                span.set_attribute("http.route", route)
            await send(message)

        await self._app(scope, receive, named)


def _first_name(scope: Any) -> tuple[str, dict[str, str]]:
    return scope["method"] if scope["method"] in KNOWN_METHODS else "HTTP", {}


def _is_stream(scope: Scope) -> bool:
    return any(name == b"accept" and value.startswith(b"text/event-stream") for name, value in scope["headers"])


def _exports() -> bool:
    """Whether spans are to be exported, and can be."""
    endpoint = _first(_ENDPOINTS)
    if not endpoint or _said("OTEL_SDK_DISABLED") == "true" or _said("OTEL_TRACES_EXPORTER") == "none":
        return False
    problems = []
    address = urlsplit(os.environ[endpoint])
    if address.scheme not in ("http", "https") or not address.hostname:
        problems.append(f"{endpoint}: an address is http://host:port, not {os.environ[endpoint]!r}")
    protocol = _first(_PROTOCOLS)
    if protocol and _said(protocol) != _PROTOCOL:
        problems.append(f"{protocol}: spans leave by {_PROTOCOL} only, not by {os.environ[protocol]!r}")
    if problems:
        raise SettingsError(*problems)
    return True


def _said(variable: str) -> str:
    return os.environ.get(variable, "").strip().lower()


def _first(variables: tuple[str, ...]) -> str:
    """Return the variable that holds, '' if none is set."""
    return next((variable for variable in variables if _said(variable)), "")
