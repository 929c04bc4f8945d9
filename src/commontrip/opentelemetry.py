"""OpenTelemetry: every transition of the fleet one span, and metrics that cost a closed call nothing.

async with Telemetry(OTLPSpanExporter()) as telemetry, Breakers(store, listeners=[telemetry]) as breakers:
    telemetry.watch(breakers)
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, export, id_generator, sampling
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from commontrip._breakers import Breakers
from commontrip._listener import Applied, Listener
from commontrip._state import Outcome, State
from commontrip._transition import token

# All names, and the metrics' units, in one place: there is no convention for circuit breakers, but one may come.
SCOPE = "commontrip"
TRANSITION_SPAN, OBSERVED_SPAN = "circuit_breaker.transition", "circuit_breaker.observed"

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

CALLS_METRIC = ("circuit_breaker.calls", "{call}")
STATE_METRIC = ("circuit_breaker.state", "{breaker}")
LOCAL_MODE_METRIC = ("circuit_breaker.local_mode", "{breaker}")
TRANSITIONS_METRIC = ("circuit_breaker.transitions", "{transition}")
PROPAGATION_METRIC = ("circuit_breaker.propagation", "s")
STORE_DURATION_METRIC = ("circuit_breaker.store.duration", "s")
STORE_ERRORS_METRIC = ("circuit_breaker.store.errors", "{error}")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_QUEUE = 2048  # spans that wait while the collector is away
_Attributes = dict[str, str | float]
_w3c = TraceContextTextMapPropagator()


def span_ids(breaker: str, epoch: str, observer: str = "") -> tuple[int, int]:
    """Return trace and span id of a transition, or of its observation by another replica.

    The same for everyone who knows breaker and epoch, in every release: a span sent twice is one span.
    """
    trace_id = hashlib.sha256(f"{breaker} {epoch}".encode()).digest()
    span_id = hashlib.sha256(f"{breaker} {epoch} {observer}".encode()).digest()
    return int.from_bytes(trace_id[:16]), int.from_bytes(span_id[16:24])


class Telemetry(Listener, AbstractAsyncContextManager["Telemetry"]):
    """Tells OpenTelemetry of transitions, of calls that were not plain successes, and of the store.

    One per `Breakers`, entered before it and so closed after it. Works in the event loop; spans leave by a thread.

    - A transition is one span in the whole fleet, and one child of it for each other replica that applied it. Their
      provider and queue are their own: no sampler and no other span's queue loses them. OTEL_SDK_DISABLED=true does.
    - A call that was refused, failed, was slow or was a probe adds attributes to the caller's span.
    - Calls and states are read from the breakers when metrics are collected, in whichever thread does so.
    """

    def __init__(
        self,
        exporter: export.SpanExporter | None = None,
        *,
        resource: Resource | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Take what sends.

        Args:
            exporter: sends the spans of transitions, and is closed with this object, so it must be no other
                provider's; None sends none.
            resource: who sends them; by default what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
            meter_provider: where metrics go; by default to the global one.
        """
        self._breakers: Breakers | tuple[()] = ()
        self._replica = token()
        self._ids = _ChosenIds()
        self._provider = TracerProvider(sampling.ALWAYS_ON, resource, id_generator=self._ids)
        self._tracer = self._provider.get_tracer(SCOPE)
        if exporter:
            queue = export.BatchSpanProcessor(exporter, _QUEUE, schedule_delay_millis=500, max_export_batch_size=128)
            self._provider.add_span_processor(queue)
        meter = (meter_provider or metrics.get_meter_provider()).get_meter(SCOPE)
        histogram = partial(meter.create_histogram, explicit_bucket_boundaries_advisory=_SECONDS)
        self._transitions = meter.create_counter(*TRANSITIONS_METRIC, "Made by this replica")
        self._propagation = histogram(*PROPAGATION_METRIC, "From a transition until this replica applied it")
        self._store_duration = histogram(*STORE_DURATION_METRIC, "Exchanges with the store")
        self._store_errors = meter.create_counter(*STORE_ERRORS_METRIC, "Exchanges with the store that failed")
        for create, (name, unit), read, text in (
            (meter.create_observable_counter, CALLS_METRIC, self._calls, "Calls of this replica"),
            (meter.create_observable_gauge, STATE_METRIC, self._states, "1 for the state it is in, else 0"),
            (meter.create_observable_gauge, LOCAL_MODE_METRIC, self._modes, "1 while the store is away, else 0"),
        ):
            create(name, [read], unit, text)

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    def watch(self, breakers: Breakers) -> None:
        """Read the metrics of these breakers and go by their replica's name; once, before the first call."""
        self._breakers, self._replica = breakers, breakers.replica

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
        if applied.made and not applied.local:
            self._transitions.add(1, _change(applied))
            self.emit(applied)
        elif not applied.local:
            self._propagation.record(applied.lag, {NAME: applied.breaker})
            self._send(OBSERVED_SPAN, applied, {REPLICA: self._replica}, self._replica)

    def emit(self, made: Applied) -> None:
        """Send the span of a transition; sent again, by whatever replica, it is the same span.

        It begins with the commit and ends when its maker applied it, both by the store's clock.
        """
        t = made.transition
        lasted = round(max(0.0, t.since - (t.previous_since or t.since)), 3)  # they are ms
        attributes: _Attributes = {REPLICA: t.replica, FAILURES: t.failures, CALLS: t.calls, COOLDOWN: t.cooldown}
        attributes |= {PREVIOUS_DURATION: lasted} | ({LAST_ERROR: t.error} if t.error else {})
        self._send(TRANSITION_SPAN, made, attributes)

    def _send(self, name: str, applied: Applied, attributes: _Attributes, observer: str = "") -> None:
        t, transition = applied.transition, _span(applied.breaker, str(applied.transition.epoch))
        attributes |= _change(applied) | {NUMBER: t.epoch.number, INCARNATION: t.epoch.incarnation}
        self._ids.chosen = span_ids(applied.breaker, str(t.epoch), observer)
        parent = trace.set_span_in_context(transition, Context()) if observer else Context()
        links = [] if observer else [*_links(applied)]
        # A float of Unix seconds knows microseconds, no more.
        start, end = (round(seconds * 1e6) * 1000 for seconds in (t.since, t.since + applied.lag))
        span = self._tracer.start_span(name, parent, attributes=attributes, links=links, start_time=start)
        span.end(end)

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:  # noqa: ARG002 - state says so
        """Say on the caller's span what became of the call."""
        span = trace.get_current_span()
        if span.is_recording():
            refused = {ERROR_TYPE: "CircuitOpenError"} if outcome is Outcome.REJECTED else {}
            span.set_attributes({NAME: breaker, STATE: state.lower(), OUTCOME: outcome.value, **refused})

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
        for breaker in self._breakers:
            for outcome, count in breaker.snapshot.calls.items():
                yield Observation(count, {NAME: breaker.name, OUTCOME: outcome.value})

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            now = breaker.state
            for state in State:
                yield Observation(int(state is now), {NAME: breaker.name, STATE: state.lower()})

    def _modes(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            yield Observation(int(breaker.snapshot.local), {NAME: breaker.name})


class _ChosenIds(id_generator.IdGenerator):
    """Hands out the ids chosen for the next span; the SDK asks for some, but does not say for which span."""

    chosen = (0, 0)

    def generate_trace_id(self) -> int:
        return self.chosen[0]

    def generate_span_id(self) -> int:
        return self.chosen[1]


def _change(applied: Applied) -> _Attributes:
    t = applied.transition
    states = {STATE: t.state.lower(), PREVIOUS_STATE: (t.previous_state or "none").lower()}
    return {NAME: applied.breaker, REASON: str(t.reason), **states}


def _links(applied: Applied) -> Iterable[trace.Link]:
    previous = applied.transition.previous
    cause = trace.get_current_span(_w3c.extract({"traceparent": applied.transition.cause}, Context()))
    if cause.get_span_context().is_valid:
        yield trace.Link(cause.get_span_context(), {LINK: "cause"})
    if previous and previous.split(".")[1:2] != ["0"]:  # a seed is no transition and has no span
        yield trace.Link(_span(applied.breaker, previous).get_span_context(), {LINK: "previous"})


def _span(breaker: str, epoch: str) -> trace.Span:
    """Return a transition's span as others see it, who did not make it."""
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.NonRecordingSpan(trace.SpanContext(*span_ids(breaker, epoch), is_remote=True, trace_flags=flags))


async def _within(seconds: float, work: Callable[[], object]) -> bool:
    """Run what blocks in a thread that nothing waits for after `seconds`: the SDK's own limits do not hold."""
    thread = threading.Thread(target=work, name="commontrip sends spans", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread sets no event of a loop
        await asyncio.sleep(0.01)
    return not thread.is_alive()
