"""OpenTelemetry: every transition of the fleet one span, and metrics that cost a closed call nothing.

async with Telemetry(OTLPSpanExporter()) as telemetry, Breakers(store, listeners=[telemetry]) as breakers:
    telemetry.watch(breakers)
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Self

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from commontrip._breakers import Breakers
from commontrip._listener import Applied, Listener
from commontrip._state import Outcome, State
from commontrip._transition import Transition, token

# All names, in one place: OpenTelemetry has no convention for circuit breakers yet, but may get one.
SCOPE = "commontrip"
TRANSITION_SPAN = "circuit_breaker.transition"
OBSERVED_SPAN = "circuit_breaker.observed"

NAME = "circuit_breaker.name"
STATE = "circuit_breaker.state"
PREVIOUS_STATE = "circuit_breaker.previous_state"
PREVIOUS_DURATION = "circuit_breaker.previous_state_duration"
OUTCOME = "circuit_breaker.outcome"
NUMBER = "circuit_breaker.transition.id"
REASON = "circuit_breaker.transition.reason"
INCARNATION = "circuit_breaker.incarnation"
REPLICA = "circuit_breaker.replica"
FAILURES = "circuit_breaker.failures"
CALLS = "circuit_breaker.calls"
COOLDOWN = "circuit_breaker.cooldown"
LAST_ERROR = "circuit_breaker.last_error_type"
LINK = "circuit_breaker.link"  # of a link: cause or previous
OPERATION = "circuit_breaker.store.operation"
ERROR_TYPE = "error.type"

CALLS_METRIC = "circuit_breaker.calls"
STATE_METRIC = "circuit_breaker.state"
TRANSITIONS_METRIC = "circuit_breaker.transitions"
PROPAGATION_METRIC = "circuit_breaker.propagation"
STORE_DURATION_METRIC = "circuit_breaker.store.duration"
STORE_ERRORS_METRIC = "circuit_breaker.store.errors"
LOCAL_MODE_METRIC = "circuit_breaker.local_mode"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_QUEUE = 2048  # spans that wait while the collector is away; an empty queue costs nothing
_Attributes = dict[str, str | int | float]
_logger = logging.getLogger("commontrip")
_w3c = TraceContextTextMapPropagator()


def span_ids(breaker: str, epoch: str, observer: str = "") -> tuple[int, int]:
    """Return trace and span id of a transition, or of its observation by another replica.

    The same for everyone who knows breaker and epoch, in every release: a span sent twice is one span.
    """
    trace_id = hashlib.sha256(f"{breaker} {epoch}".encode()).digest()
    span_id = hashlib.sha256(f"{breaker} {epoch} {observer}".encode()).digest()
    return int.from_bytes(trace_id[:16]), int.from_bytes(span_id[16:24])


class Telemetry(Listener):
    """Tells OpenTelemetry of transitions, of calls that were not plain successes, and of the store.

    One per `Breakers`, entered before it and so closed after it. Runs in the event loop; spans leave in a thread.

    - A transition is one span in the whole fleet, and one child of it for each other replica that applied it. Their
      provider and queue are their own: no sampler and no other span's queue loses them. OTEL_SDK_DISABLED=true does.
    - A call that was refused, failed, was slow or was a probe adds attributes to the caller's span.
    - Counts of calls are read from the breakers when metrics are collected, in whichever thread does so.
    """

    def __init__(
        self,
        exporter: SpanExporter | None = None,
        *,
        resource: Resource | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Take what sends.

        Args:
            exporter: sends the spans of transitions and is closed with this object, so it must be no other provider's;
                None sends none.
            resource: who sends them; by default what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
            meter_provider: where metrics go; by default to the global one.
        """
        self._breakers: Iterable[Breakers] = ()
        self._replica = token()
        self._ids = _ChosenIds()
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        self._tracer: trace.Tracer = trace.NoOpTracer()
        if exporter:
            queue = BatchSpanProcessor(exporter, _QUEUE, schedule_delay_millis=500, max_export_batch_size=128)
            self._provider.add_span_processor(queue)
            self._tracer = self._provider.get_tracer(SCOPE)
        self._make_instruments((meter_provider or metrics.get_meter_provider()).get_meter(SCOPE))

    def _make_instruments(self, meter: metrics.Meter) -> None:
        def histogram(name: str, description: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS)

        self._transitions = meter.create_counter(TRANSITIONS_METRIC, "{transition}", "Made by this replica")
        self._propagation = histogram(PROPAGATION_METRIC, "From a transition until this replica applied it")
        self._store_duration = histogram(STORE_DURATION_METRIC, "Exchanges with the store")
        self._store_errors = meter.create_counter(
            STORE_ERRORS_METRIC, "{error}", "Exchanges with the store that failed"
        )
        meter.create_observable_counter(CALLS_METRIC, [self._calls], "{call}", "Calls of this replica by outcome")
        meter.create_observable_gauge(STATE_METRIC, [self._states], "{breaker}", "1 for the state it is in, else 0")
        meter.create_observable_gauge(LOCAL_MODE_METRIC, [self._modes], "{breaker}", "1 if the store is away, else 0")

    async def __aenter__(self) -> Self:
        """Start nothing: it works as soon as it is made."""
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Send what waits, within five seconds."""
        await self.aclose()

    def watch(self, breakers: Breakers) -> None:
        """Read the metrics of these breakers and go by their replica's name; once, before the first call."""
        self._breakers = (breakers,)
        self._replica = breakers.replica

    async def flush(self, seconds: float = 5.0) -> bool:
        """Send what waits; return whether that was done within `seconds`."""
        return await _within(seconds, self._provider.force_flush)

    async def aclose(self, seconds: float = 5.0) -> bool:
        """Send what waits and close the exporter; return whether that was done within `seconds`.

        What was not is lost: neither the event loop nor the end of the process waits for it.
        """
        return await _within(seconds, self._provider.shutdown)

    def on_transition(self, applied: Applied) -> None:
        """Send the span if this replica made the transition, else the one that says when it learned of it."""
        name, t = applied.breaker, applied.transition
        if applied.local:
            return
        if applied.made:
            self._transitions.add(1, _change(name, t) | {REASON: str(t.reason)})
            self.emit(name, t, applied.applied_at)
        else:
            self._propagation.record(applied.lag, {NAME: name})
            parent = trace.set_span_in_context(NonRecordingSpan(_context(name, str(t.epoch))), Context())
            attributes = _change(name, t) | _epoch(t) | {REPLICA: self._replica}
            ids = span_ids(name, str(t.epoch), self._replica)
            self._send(OBSERVED_SPAN, ids, parent, attributes, [], (t.since, applied.applied_at))

    def emit(self, breaker: str, t: Transition, applied_at: float) -> None:
        """Send the span of a transition; sent again, by whatever replica, it is the same span.

        It begins with the commit and ends when its maker applied it, at `applied_at` by the store's clock.
        """
        attributes = _change(breaker, t) | _epoch(t)
        attributes |= {REASON: str(t.reason), REPLICA: t.replica}
        attributes |= {FAILURES: t.failures, CALLS: t.calls, COOLDOWN: t.cooldown}
        if t.previous_state:
            attributes[PREVIOUS_DURATION] = max(0.0, t.since - t.previous_since)
        if t.error:
            attributes[LAST_ERROR] = t.error
        ids = span_ids(breaker, str(t.epoch))
        self._send(TRANSITION_SPAN, ids, Context(), attributes, _links(breaker, t), (t.since, applied_at))

    def _send(
        self,
        name: str,
        ids: tuple[int, int],
        parent: Context,
        attributes: _Attributes,
        links: list[Link],
        times: tuple[float, float],
    ) -> None:
        self._ids.chosen = ids
        start, end = (round(seconds * 1e6) * 1000 for seconds in times)  # a float of Unix seconds knows no ns
        span = self._tracer.start_span(name, parent, attributes=attributes, links=links, start_time=start)
        span.end(max(start, end))

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:  # noqa: ARG002 - its state tells
        """Say on the caller's span what became of the call."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes({NAME: breaker, STATE: state.lower(), OUTCOME: outcome.value})
            if outcome is Outcome.REJECTED:
                span.set_attribute(ERROR_TYPE, "CircuitOpenError")

    def cause(self) -> str:
        """Return the caller's trace context, sampled or not: a transition's span links to it."""
        carrier: dict[str, str] = {}
        _w3c.inject(carrier)
        return carrier.get("traceparent", "")

    def on_store(self, operation: str, seconds: float, error: str) -> None:
        """Measure an exchange with the store."""
        attributes = {OPERATION: operation} | ({ERROR_TYPE: error} if error else {})
        self._store_duration.record(seconds, attributes)
        if error:
            self._store_errors.add(1, attributes)

    def _calls(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in (breaker for breakers in self._breakers for breaker in breakers):
            for outcome, count in breaker.snapshot.calls.items():
                yield Observation(count, {NAME: breaker.name, OUTCOME: outcome.value})

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in (breaker for breakers in self._breakers for breaker in breakers):
            now = breaker.state
            for state in State:
                yield Observation(int(state is now), {NAME: breaker.name, STATE: state.lower()})

    def _modes(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in (breaker for breakers in self._breakers for breaker in breakers):
            yield Observation(int(breaker.snapshot.local), {NAME: breaker.name})


class _ChosenIds(IdGenerator):
    """Hands out the ids chosen for the next span; the SDK asks for some, but does not say for which span."""

    chosen = (0, 0)

    def generate_trace_id(self) -> int:
        return self.chosen[0]

    def generate_span_id(self) -> int:
        return self.chosen[1]


def _change(breaker: str, t: Transition) -> _Attributes:
    before: _Attributes = {PREVIOUS_STATE: t.previous_state.lower()} if t.previous_state else {}
    return before | {NAME: breaker, STATE: t.state.lower()}


def _epoch(t: Transition) -> _Attributes:
    return {NUMBER: t.epoch.number, INCARNATION: t.epoch.incarnation}


def _links(breaker: str, t: Transition) -> list[Link]:
    cause = trace.get_current_span(_w3c.extract({"traceparent": t.cause}, Context())).get_span_context()
    links = [Link(cause, {LINK: "cause"})] if cause.is_valid else []
    if t.previous and t.previous.split(".")[1:2] != ["0"]:  # a seed is no transition and has no span
        links.append(Link(_context(breaker, t.previous), {LINK: "previous"}))
    return links


def _context(breaker: str, epoch: str) -> SpanContext:
    return SpanContext(*span_ids(breaker, epoch), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


async def _within(seconds: float, work: Callable[[], object]) -> bool:
    """Run what blocks in a thread that nothing waits for after `seconds`; the SDK's own limits do not hold."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except Exception:
            _logger.exception("the span exporter raised")
        done.set()

    threading.Thread(target=run, name="commontrip sends spans", daemon=True).start()
    give_up = asyncio.get_running_loop().time() + seconds
    while not done.is_set() and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(0.005)
    return done.is_set()
