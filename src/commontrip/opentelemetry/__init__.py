"""OpenTelemetry: every transition of the fleet one span, and metrics that cost a closed call nothing.

async with Telemetry(OTLPSpanExporter()) as telemetry, Breakers(store, listeners=[telemetry]) as breakers:
    ...
    await telemetry.flush()  # before the fleet is left: nobody need send the last spans again
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, export, id_generator, sampling
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from commontrip import _check, _transition
from commontrip._breakers import Breakers
from commontrip._listener import Applied, Listener
from commontrip._state import Outcome, Override, Reason, State
from commontrip._transition import Transition, token
from commontrip.opentelemetry import names
from commontrip.opentelemetry._delivery import Delivery, within
from commontrip.opentelemetry._recovery import Recovery

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_QUEUE = 2048  # spans that wait while the collector is away
_EVERY_MS = 500.0  # in which those that have come together are sent
_Attributes = dict[str, str | float]
_Change = tuple[str, str, str]  # state, previous state, reason
_USUAL: dict[_Change, int] = dict.fromkeys(
    (
        (State.OPEN.lower(), State.CLOSED.lower(), Reason.TRIPPED.value),
        (State.HALF_OPEN.lower(), State.OPEN.lower(), Reason.COOLDOWN_OVER.value),
        (State.CLOSED.lower(), State.HALF_OPEN.lower(), Reason.PROBES_SUCCEEDED.value),
        (State.OPEN.lower(), State.HALF_OPEN.lower(), Reason.PROBES_FAILED.value),
    ),
    0,
)
"""Transitions that are counted from 0 on: what a series begins with is no increase."""
_w3c = TraceContextTextMapPropagator()


def span_ids(breaker: str, epoch: str, observer: str = "") -> tuple[int, int]:
    """Return trace and span id of a transition, or of its observation by another replica.

    The same for everyone who knows breaker and epoch, in every release: a span sent twice is one span.
    """
    return _transition.span_ids(breaker, epoch, observer)


class Telemetry(Listener, AbstractAsyncContextManager["Telemetry"]):
    """Tells OpenTelemetry of transitions, of calls that were not plain successes, and of the store.

    One per `Breakers`, entered before it and so closed after it. Works in the event loop; spans leave by a thread.

    - A transition is one span in the whole fleet, and one child of it for each other replica that applied it. Their
      provider and queue are their own: no sampler and no other span's queue loses them. OTEL_SDK_DISABLED=true does.
    - What is not delivered is tried again for a minute. That a transition's span has arrived is noted in the store:
      when whoever made it was killed before, another replica sends the same span.
    - A call that was refused, failed, was slow or was a probe adds attributes to the caller's span.
    - Calls, transitions and states are read when metrics are collected, in whichever thread does so.
    """

    def __init__(
        self,
        exporter: export.SpanExporter | None = None,
        *,
        resource: Resource | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        patience: float = 5.0,
        call_durations: bool = False,
    ) -> None:
        """Take what sends.

        Args:
            exporter: sends the spans of transitions, and is closed with this object, so it must be no other
                provider's; None sends none.
            resource: who sends them; by default what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
            meter_provider: where metrics go; by default to the global one.
            patience: seconds after which others send a transition's span if its maker has not, 0.1 to 60.
            call_durations: whether to measure how long every call takes; the SDK's histogram adds some 10 µs to each.
        """
        self._patience = _check.number("patience", patience, 0.1, 60)
        self._breakers: Breakers | tuple[()] = ()
        self._replica = token()
        self._ids = _ChosenIds()
        self._provider = TracerProvider(sampling.ALWAYS_ON, resource, id_generator=self._ids)
        self._tracer = self._provider.get_tracer(names.SCOPE)
        self._recovery: Recovery | None = None
        self._delivery: Delivery | None = None
        self._sending: dict[int, tuple[str, str]] = {}  # by span id: breaker and epoch
        self._made: dict[str, dict[_Change, int]] = {}  # by breaker
        if exporter and not isinstance(self._tracer, trace.NoOpTracer):
            self._delivery = Delivery(exporter, self._delivered)
            queue = export.BatchSpanProcessor(
                self._delivery, _QUEUE, schedule_delay_millis=_EVERY_MS, max_export_batch_size=128
            )
            self._provider.add_span_processor(queue)
        meter = (meter_provider or metrics.get_meter_provider()).get_meter(names.SCOPE)
        histogram = partial(meter.create_histogram, explicit_bucket_boundaries_advisory=_SECONDS)
        self.times_calls = call_durations
        self._call_duration = histogram(*names.CALL_DURATION_METRIC, "Calls that were admitted, by outcome")
        self._propagation = histogram(*names.PROPAGATION_METRIC, "From a transition until this replica applied it")
        self._store_duration = histogram(*names.STORE_DURATION_METRIC, "Exchanges with the store")
        self._store_errors = meter.create_counter(*names.STORE_ERRORS_METRIC, "Exchanges with the store that failed")
        for create, (name, unit), read, text in (
            (meter.create_observable_counter, names.CALLS_METRIC, self._calls, "Calls of this replica"),
            (meter.create_observable_counter, names.TRANSITIONS_METRIC, self._transitions, "Made by this replica"),
            (meter.create_observable_gauge, names.STATE_METRIC, self._states, "1 for the state it is in, else 0"),
            (meter.create_observable_gauge, names.OVERRIDE_METRIC, self._orders, "1 for the order in force, else 0"),
            (meter.create_observable_gauge, names.LOCAL_MODE_METRIC, self._modes, "1 while the store is away, else 0"),
        ):
            create(name, [read], unit, text)

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()

    def watch(self, breakers: Breakers) -> None:
        """Read the metrics of these breakers and go by their replica's name; `Breakers` does it when it starts."""
        if self._breakers is not breakers:
            self._breakers, self._replica = breakers, breakers.replica
            if self._delivery:
                delivery = self._delivery
                self._recovery = Recovery(breakers, self._recover, lambda: delivery.works, self._patience)
                self._recovery.begin()

    async def flush(self, seconds: float = 5.0) -> bool:
        """Send what waits; return whether that was done within `seconds`.

        Before `Breakers` is left, it spares the fleet to send the last spans again: only then can it be noted that
        they have arrived.
        """
        done = await within(seconds, self._provider.force_flush)
        if self._recovery:
            await self._recovery.settled()
        return done

    async def aclose(self, seconds: float = 5.0) -> bool:
        """Send what waits and close the exporter; return whether that was done within `seconds`.

        What was not is left to other replicas: neither the event loop nor the end of the process waits for it.
        """
        done = await within(seconds, self._provider.shutdown)
        if self._delivery:
            self._delivery.leaving.set()
        if self._recovery:
            await self._recovery.aclose()
        return done

    def on_transition(self, applied: Applied) -> None:
        """Send the span if this replica made the transition, else the one that says when it learned of it."""
        if self._recovery and not applied.local:
            self._recovery.heard(applied.breaker)
        if applied.made and not applied.local:
            self._count(applied)
            self.emit(applied)
        elif not applied.local:
            self._propagation.record(applied.lag, {names.NAME: applied.breaker})
            self._send(names.OBSERVED_SPAN, applied, {names.REPLICA: self._replica}, self._replica)

    def _count(self, made: Applied) -> None:
        counts, change = self._made.setdefault(made.breaker, {}), _change(made.transition)
        counts[change] = counts.get(change, 0) + 1

    def on_learned(self, breaker: str, rank: int) -> None:
        """Look after the transition if this replica was among the first to learn of it."""
        if self._recovery:
            self._recovery.learned(breaker, rank)

    def emit(self, made: Applied) -> None:
        """Send the span of a transition; sent again, by whatever replica, it is the same span.

        It begins with the commit and ends when its maker applied it, both by the store's clock.
        """
        t = made.transition
        if self._delivery:
            self._sending[span_ids(made.breaker, str(t.epoch))[1]] = (made.breaker, str(t.epoch))
            while len(self._sending) > 2 * _QUEUE:  # those that the queue had no room for
                self._sending.pop(next(iter(self._sending)), None)
        lasted = round(max(0.0, t.since - (t.previous_since or t.since)), 3)  # they are ms
        attributes: _Attributes = {
            names.REPLICA: t.replica,
            names.FAILURES: t.failures,
            names.CALLS: t.calls,
            names.COOLDOWN: t.cooldown,
        }
        attributes |= {names.PREVIOUS_DURATION: lasted} | ({names.LAST_ERROR: t.error} if t.error else {})
        self._send(names.TRANSITION_SPAN, made, attributes)

    def _recover(self, breaker: str, transition: Transition) -> None:
        """Send what another replica has not; when it applied the transition, if it ever did, is not known."""
        if (breaker, str(transition.epoch)) not in self._sending.values():
            self.emit(Applied(breaker=breaker, transition=transition, made=False, applied_at=transition.since))

    def _delivered(self, spans: Sequence[ReadableSpan], *, arrived: bool) -> None:
        """Note which transitions are told; in the exporter's thread."""
        found = [*filter(None, [self._sending.pop(span.context.span_id, None) for span in spans if span.context])]
        if self._recovery and arrived:
            self._recovery.delivered(found)
        elif self._recovery and self._delivery and not self._delivery.leaving.is_set():
            self._recovery.given_up(found)

    def _send(self, name: str, applied: Applied, attributes: _Attributes, observer: str = "") -> None:
        t, transition = applied.transition, _span(applied.breaker, str(applied.transition.epoch))
        attributes |= _said(applied.breaker, _change(t)) | {
            names.NUMBER: t.epoch.number,
            names.INCARNATION: t.epoch.incarnation,
        }
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
            refused = {names.ERROR_TYPE: "CircuitOpenError"} if outcome is Outcome.REJECTED else {}
            span.set_attributes(
                {names.NAME: breaker, names.STATE: state.lower(), names.OUTCOME: outcome.value, **refused}
            )

    def on_ended(self, breaker: str, outcome: Outcome, seconds: float) -> None:
        """Measure a call."""
        if self.times_calls:
            self._call_duration.record(seconds, {names.NAME: breaker, names.OUTCOME: outcome.value})

    def cause(self) -> str:
        """Return the caller's trace context, sampled or not: a transition's span links to it."""
        carrier: dict[str, str] = {}
        _w3c.inject(carrier)
        return carrier.get("traceparent", "")

    def on_store(self, operation: str, seconds: float, error: str) -> None:
        """Measure an exchange with the store."""
        attributes = {names.OPERATION: operation} | ({names.ERROR_TYPE: error} if error else {})
        self._store_duration.record(seconds, attributes)
        if error:
            self._store_errors.add(1, attributes)

    def _calls(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            for outcome, count in breaker.snapshot.calls.items():
                yield Observation(count, {names.NAME: breaker.name, names.OUTCOME: outcome.value})

    def _transitions(self, _: CallbackOptions) -> Iterable[Observation]:
        made = self._made.copy()
        for breaker in self._breakers:
            for change, count in (_USUAL | made.pop(breaker.name, {})).items():
                yield Observation(count, _said(breaker.name, change))
        for name in made:  # nobody holds that breaker any more
            self._made.pop(name, None)

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            known = breaker.snapshot
            for state in State if known.transition else ():  # who has not asked yet does not know the fleet's state
                yield Observation(int(state is known.state), {names.NAME: breaker.name, names.STATE: state.lower()})

    def _orders(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            known = breaker.snapshot
            for order in Override if known.transition else ():
                attributes = {names.NAME: breaker.name, names.OVERRIDE: order.lower()}
                yield Observation(int(order is known.override), attributes)

    def _modes(self, _: CallbackOptions) -> Iterable[Observation]:
        for breaker in self._breakers:
            yield Observation(int(breaker.snapshot.local), {names.NAME: breaker.name})


class _ChosenIds(id_generator.IdGenerator):
    """Hands out the ids chosen for the next span; the SDK asks for some, but does not say for which span."""

    chosen = (0, 0)

    def generate_trace_id(self) -> int:
        return self.chosen[0]

    def generate_span_id(self) -> int:
        return self.chosen[1]


def _change(t: Transition) -> _Change:
    return t.state.lower(), (t.previous_state or "none").lower(), str(t.reason)


def _said(breaker: str, change: _Change) -> _Attributes:
    state, previous, reason = change
    return {names.NAME: breaker, names.REASON: reason, names.STATE: state, names.PREVIOUS_STATE: previous}


def _links(applied: Applied) -> Iterable[trace.Link]:
    previous = applied.transition.previous
    cause = trace.get_current_span(_w3c.extract({"traceparent": applied.transition.cause}, Context()))
    if cause.get_span_context().is_valid:
        yield trace.Link(cause.get_span_context(), {names.LINK: "cause"})
    if previous and previous.split(".")[1:2] != ["0"]:  # a seed is no transition and has no span
        yield trace.Link(_span(applied.breaker, previous).get_span_context(), {names.LINK: "previous"})


def _span(breaker: str, epoch: str) -> trace.Span:
    """Return a transition's span as others see it, who did not make it."""
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.NonRecordingSpan(trace.SpanContext(*span_ids(breaker, epoch), is_remote=True, trace_flags=flags))
