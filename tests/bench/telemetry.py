"""What telemetry adds to a call: commontrip's own to a guarded one, the stock instrumentation's to a request.

With and without take turns within each round, in an order drawn anew; each figure is the median over the rounds.
"""

import asyncio
import gc
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from commontrip import Breaker, Breakers, ConsecutiveFailures, Listener, Policy
from commontrip.opentelemetry import Telemetry
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.loops import Loop, answer, awaited, handed
from tests.bench.progress import say
from tests.support.servers import Server

ROUNDS = 15
ON, OFF = "telemetry on", "telemetry off"
SAMPLED, UNSAMPLED, PLAIN = "every span sampled", "no span sampled", "not instrumented"
SERVER, CLIENT = "a request served (ASGI)", "a request made (httpx)"
_SLICE = 0.03  # seconds that one loop runs
_MOST = 1.2
_SCOPE = {
    "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/profile/ada",
    "raw_path": b"/profile/ada", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 4711),
    "server": ("127.0.0.1", 8080), "headers": [(b"host", b"here"), (b"user-agent", b"bench")],
}  # fmt: skip

Key = tuple[str, str]
"""What is done, and with which telemetry."""


@dataclass(slots=True)
class Told:
    """Microseconds a call, everything included."""

    costs: dict[Key, float] = field(default_factory=dict)

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        forms = sorted({form for form, how in self.costs if how == ON})
        return [
            Bound(f"closed, {form}: {_MOST} times without telemetry", self.costs[form, ON], _MOST * without, "µs")
            for form in forms
            for without in (self.costs[form, OFF],)
        ]

    def figures(self) -> list[tuple[str, float, str]]:
        """Return what the stock instrumentation costs, for the page."""
        return [
            (f"{what}: the stock instrumentation, {how}", self.costs[what, how] - self.costs[what, PLAIN], "µs")
            for what in (SERVER, CLIENT)
            for how in (SAMPLED, UNSAMPLED)
        ]


class _Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the SDK's
        """Say that they have arrived."""
        return SpanExportResult.SUCCESS


async def measure(server: Server, rounds: int = ROUNDS) -> Told:
    """Run all side by side."""
    server.flush()
    async with AsyncExitStack() as stack:
        loops = {**await _guarded(stack, server.url), **_stock(stack)}
        counts = {key: await _calls_in_a_slice(loop) for key, loop in loops.items()}
        gc.collect()
        gc.freeze()
        samples: dict[Key, list[float]] = defaultdict(list)
        say(f"telemetry: {rounds} rounds, {len(loops)} loops")
        for _ in range(rounds):
            for key in random.sample(list(loops), len(loops)):
                await asyncio.sleep(0)
                samples[key].append(await _cost(loops[key], counts[key]))
        gc.unfreeze()
    return Told({key: statistics.median(found) for key, found in samples.items()})


async def _guarded(stack: AsyncExitStack, url: str) -> dict[Key, Loop]:
    loops: dict[Key, Loop] = {}
    for how in (ON, OFF):
        listeners: list[Listener] = []
        if how == ON:
            meters = MeterProvider([InMemoryMetricReader()])
            listeners = [await stack.enter_async_context(Telemetry(_Nowhere(), meter_provider=meters))]
        breaker = await stack.enter_async_context(_breaker(url, how, listeners))
        loops["decorated", how] = awaited(breaker(answer))
        loops["call", how] = handed(breaker.call, answer)
        loops["context manager", how] = _within(breaker)
    return loops


@asynccontextmanager
async def _breaker(url: str, how: str, listeners: list[Listener]) -> AsyncIterator[Breaker]:
    store = RedisStore.from_url(url, prefix=how.replace(" ", "-"))
    async with Breakers(store, listeners=listeners, store_budget=5) as breakers:
        breaker = breakers.get("auth", Policy(trip=ConsecutiveFailures(5)))
        await breaker.call(answer)
        yield breaker


def _within(breaker: Breaker) -> Loop:
    async def loop(calls: int) -> None:
        for _ in range(calls):
            async with breaker:
                await answer()

    return loop


def _stock(stack: AsyncExitStack) -> dict[Key, Loop]:
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # as the services do
    loops: dict[Key, Loop] = {(SERVER, PLAIN): _served(_app), (CLIENT, PLAIN): _made(_transport())}
    for how, sampler in ((SAMPLED, sampling.ALWAYS_ON), (UNSAMPLED, sampling.ALWAYS_OFF)):
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_Nowhere(), 100_000))
        stack.callback(provider.shutdown)
        around = OpenTelemetryMiddleware(
            _app, tracer_provider=provider, meter_provider=NoOpMeterProvider(), exclude_spans=["receive", "send"]
        )
        loops[SERVER, how] = _served(around)
        loops[CLIENT, how] = _made(AsyncOpenTelemetryTransport(_transport(), provider, NoOpMeterProvider()))
    return loops


async def _app(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:  # noqa: ARG001 - ASGI
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _transport() -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(200))


def _served(app: Callable[..., Awaitable[None]]) -> Loop:
    async def nothing(message: Any = None) -> None:
        """Send, or receive, nothing."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            await app(dict(_SCOPE), nothing, nothing)

    return loop


def _made(transport: httpx.AsyncBaseTransport) -> Loop:
    request = httpx.Request("GET", "http://auth/users/ada")

    async def loop(calls: int) -> None:
        for _ in range(calls):
            await transport.handle_async_request(request)

    return loop


async def _calls_in_a_slice(loop: Loop) -> int:
    await loop(100)
    return max(50, round(_SLICE * 1e6 / await _cost(loop, 100)))


async def _cost(loop: Loop, calls: int) -> float:
    started = time.perf_counter()
    await loop(calls)
    return (time.perf_counter() - started) / calls * 1e6
