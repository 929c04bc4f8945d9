"""`commontrip.opentelemetry`: what the real SDK exports, from real fleets."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from commontrip import (
    Applied,
    Breaker,
    Breakers,
    CircuitOpenError,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    MemoryStore,
    Outcome,
    Override,
    Policy,
    SlowCallRate,
    State,
    Store,
    SuccessRatio,
    Transition,
)
from commontrip._transition import Epoch
from commontrip.opentelemetry import Telemetry, span_ids
from commontrip.redis import RedisStore
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, eventually

POLICY = Policy(
    trip=ConsecutiveFailures(2),
    recover=SuccessRatio(1, probes=1),
    cooldown=Cooldown(0.05, 1, 0.05, 0),
    classify=Classify(slow=(TimeoutError,), ignored=(LookupError,)),
)
SINCE = 1_795_000_000.123
EPOCH = Epoch("00c0ffee00c0ffee", 7, "0123456789abcdef")
TRIPPED = Transition(
    epoch=EPOCH,
    state=State.OPEN,
    since=SINCE,
    cooldown=30.0,
    reason="tripped",
    replica="pod-1",
    failures=5,
    calls=9,
    previous="00c0ffee00c0ffee.6.fedcba9876543210",
    previous_state=State.CLOSED,
    previous_since=SINCE - 12.5,
    error="ConnectError",
    cause="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
)


@dataclass(frozen=True)
class Replica:
    """One process of a fleet, as far as telemetry can tell: exporter, reader and provider are its own."""

    breakers: Breakers
    breaker: Breaker
    telemetry: Telemetry
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    async def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return what it has sent, of one name or of any."""
        assert await self.telemetry.flush()
        return [span for span in self.exporter.get_finished_spans() if name in ("", span.name)]


@asynccontextmanager
async def running(store: Store, policy: Policy = POLICY) -> AsyncIterator[Replica]:
    """Start a replica with a breaker `auth` that has admitted a call."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    telemetry = Telemetry(exporter, meter_provider=MeterProvider([reader]))
    async with telemetry, Breakers(store, listeners=[telemetry], store_budget=PATIENCE) as breakers:
        telemetry.watch(breakers)
        replica = Replica(breakers, breakers.get("auth", policy), telemetry, exporter, reader)
        await eventually_closed(replica)
        yield replica


@pytest.fixture
async def fleet(redis_url: str, prefix: str) -> AsyncIterator[list[Replica]]:
    """Three replicas on one Redis."""
    async with AsyncExitStack() as stack:
        stores = [RedisStore.from_url(redis_url, prefix=prefix) for _ in range(3)]
        yield [await stack.enter_async_context(running(store)) for store in stores]


@pytest.fixture
async def alone() -> AsyncIterator[Replica]:
    """One replica on a store in memory."""
    async with running(MemoryStore()) as replica:
        yield replica


async def works() -> None:
    """Be a call that succeeds."""


async def fails() -> None:
    """Be a call that fails."""
    raise ConnectionError


async def eventually_closed(replica: Replica, call: Callable[[], Any] = works) -> None:
    """Call until a call has been admitted and has succeeded."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(CircuitOpenError):
                await replica.breaker.call(call)
                return
            await asyncio.sleep(0.005)


async def trip(replica: Replica) -> None:
    """Let two calls fail and the circuit open."""
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await replica.breaker.call(fails)
    await eventually(lambda: replica.breaker.state == State.OPEN, "the circuit to open")


async def everywhere(fleet: list[Replica], state: State) -> None:
    """Wait until all replicas are in a state."""
    await eventually(lambda: all(r.breaker.state == state for r in fleet), f"{state} everywhere")


async def trip_and_recover(fleet: list[Replica], tripper: Replica, prober: Replica) -> None:
    """Go round once, so that every replica sees each of the three transitions."""
    await trip(tripper)
    await everywhere(fleet, State.OPEN)
    await eventually_closed(prober, lambda: everywhere(fleet, State.HALF_OPEN))
    await everywhere(fleet, State.CLOSED)


def span_id(span: ReadableSpan) -> int:
    """Return the span's own id."""
    assert span.context
    return int(span.context.span_id)


def links(span: ReadableSpan) -> dict[Any, tuple[int, int]]:
    """Return trace and span id of the spans it links to, by the kind of link."""
    found = {(link.attributes or {})["circuit_breaker.link"]: link.context for link in span.links}
    return {kind: (context.trace_id, context.span_id) for kind, context in found.items()}


def number(span: ReadableSpan) -> Any:
    """Return the number of the transition that it is about."""
    return (span.attributes or {})["circuit_breaker.transition.id"]


def points(reader: InMemoryMetricReader, metric: str) -> dict[tuple[Any, ...], Any]:
    """Collect, and return a metric's data points by the values of their attributes, in the order of their names."""
    found = {}
    data = reader.get_metrics_data()
    for scope in data.resource_metrics[0].scope_metrics if data else ():
        assert scope.scope.name == "commontrip"
        for point in (point for found in scope.metrics if found.name == metric for point in found.data.data_points):
            attributes = point.attributes or {}
            found[tuple(attributes[key] for key in sorted(attributes))] = getattr(point, "value", point)
    return found


class Stuck(InMemorySpanExporter):
    """Answers nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait."""
        self.released.wait(30)
        return super().export(spans)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """An exporter whose collector does not answer."""
    exporter = Stuck()
    yield exporter
    exporter.released.set()


# -- the spans of a fleet


async def test_one_span_for_each_transition_and_one_for_each_other_replica(fleet: list[Replica]) -> None:
    """Three replicas, six transitions: each is one span, with one child by each replica that did not make it."""
    await trip_and_recover(fleet, fleet[0], fleet[1])
    await trip_and_recover(fleet, fleet[2], fleet[0])

    history = [t for t, _ in await fleet[0].breaker.history() if t.epoch.number]
    made = [span for r in fleet for span in await r.spans("circuit_breaker.transition")]
    observed = [span for r in fleet for span in await r.spans("circuit_breaker.observed")]

    assert len(history) == 6
    assert Counter(map(span_id, made)) == Counter(span_ids("auth", str(t.epoch))[1] for t in history)
    assert Counter(span.parent and span.parent.span_id for span in observed) == {span_id(span): 2 for span in made}
    assert len(set(map(span_id, observed))) == 12
    for t in history:
        trace_id = span_ids("auth", str(t.epoch))[0]
        who = [dict(s.attributes or {}) for s in made + observed if s.context and s.context.trace_id == trace_id]
        assert {a["circuit_breaker.replica"] for a in who} == {r.breakers.replica for r in fleet}
        assert who[0]["circuit_breaker.replica"] == t.replica


async def test_the_chain_of_links_leads_from_any_transition_to_the_first(fleet: list[Replica]) -> None:
    """Each transition's span links to the one before, across replicas, and only the first to none."""
    await trip_and_recover(fleet, fleet[0], fleet[1])
    await trip_and_recover(fleet, fleet[1], fleet[2])
    made = {span_id(span): span for r in fleet for span in await r.spans("circuit_breaker.transition")}
    for span in made.values():
        here, walked = span, [number(span)]
        while "previous" in links(here):
            here = made[links(here)["previous"][1]]
            walked.append(number(here))
        assert walked == list(range(number(span), 0, -1))
    assert sorted(map(number, made.values())) == [1, 2, 3, 4, 5, 6]


async def test_a_span_lasts_from_the_commit_to_its_application_here(fleet: list[Replica]) -> None:
    """Both by the store's clock, and no span ends before it begins."""
    await trip_and_recover(fleet, fleet[0], fleet[1])
    since = {str(t.epoch): t.since for t, _ in await fleet[0].breaker.history()}
    began = {span_ids("auth", epoch)[0]: round(at * 1000) * 1_000_000 for epoch, at in since.items()}
    for span in [span for r in fleet for span in await r.spans()]:
        assert span.context
        assert span.start_time == began[span.context.trace_id]
        assert span.end_time
        assert 0 <= span.end_time - span.start_time < 10 * 1e9


async def test_a_span_links_to_the_call_that_caused_it(fleet: list[Replica]) -> None:
    """The call that crossed the threshold, and the first one after the cooldown."""
    tracer = TracerProvider().get_tracer("main")
    with tracer.start_as_current_span("first failure"), pytest.raises(ConnectionError):
        await fleet[0].breaker.call(fails)
    with tracer.start_as_current_span("second failure") as failure, pytest.raises(ConnectionError):
        await fleet[0].breaker.call(fails)
    await everywhere(fleet, State.OPEN)
    with tracer.start_as_current_span("probe") as probe:
        await eventually_closed(fleet[1])
    causes = [links(span).get("cause") for r in fleet for span in await r.spans("circuit_breaker.transition")]
    contexts = [span.get_span_context() for span in (failure, probe)]
    assert causes[:2] == [(context.trace_id, context.span_id) for context in contexts]


async def test_the_closing_span_links_to_the_probe_that_decided_it(alone: Replica) -> None:
    """Not to the failure that once tripped it, nor to the call that began the round."""
    tracer = TracerProvider().get_tracer("main")
    with tracer.start_as_current_span("failure"):
        await trip(alone)
    with tracer.start_as_current_span("probe") as probe:
        await eventually_closed(alone)
    closing = (await alone.spans("circuit_breaker.transition"))[-1]
    assert (closing.attributes or {})["circuit_breaker.state"] == "closed"
    assert links(closing)["cause"] == (probe.get_span_context().trace_id, probe.get_span_context().span_id)


@pytest.mark.parametrize("sampler", ["always_off", "always_on"])
async def test_nothing_of_the_main_provider_loses_a_transition(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, stuck: Stuck, sampler: str
) -> None:
    """Not sampled, or behind a queue that loses spans, the transition's span is there within seconds."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    for setting, value in {"MAX_QUEUE_SIZE": 1, "MAX_EXPORT_BATCH_SIZE": 1, "SCHEDULE_DELAY": 60_000}.items():
        monkeypatch.setenv(f"OTEL_BSP_{setting}", str(value))
    main = TracerProvider()
    main.add_span_processor(BatchSpanProcessor(stuck))
    async with running(RedisStore.from_url(redis_url, prefix=prefix)) as replica:
        for _ in range(100):
            main.get_tracer("main").start_span("burst").end()
        with main.get_tracer("main").start_as_current_span("request") as request:
            await trip(replica)
        await eventually(lambda: bool(replica.exporter.get_finished_spans()), "the span", within=3)  # the SDK waits 5
        (span,) = replica.exporter.get_finished_spans()
    stuck.released.set()
    main.shutdown()
    kept = len(stuck.get_finished_spans())
    assert 0 < kept < 10 if sampler == "always_on" else kept == 0
    assert request.get_span_context().trace_flags.sampled is (sampler == "always_on")
    assert span.context
    assert span.context.trace_flags.sampled
    assert span.parent is None
    assert links(span)["cause"] == (request.get_span_context().trace_id, request.get_span_context().span_id)


async def test_local_mode_makes_no_span_and_no_transition() -> None:
    """What one replica decides alone is counted as local mode, and as nothing of the fleet's."""
    async with running(RedisStore.from_url(f"redis://127.0.0.1:{free_port()}")) as replica:
        await trip(replica)
        assert await replica.spans() == []
        assert set(points(replica.reader, "circuit_breaker.transitions").values()) == {0}
        assert points(replica.reader, "circuit_breaker.local_mode") == {("auth",): 1}
        assert points(replica.reader, "circuit_breaker.state")["auth", "open"] == 1
        errors = points(replica.reader, "circuit_breaker.store.errors")
        assert errors["start", "StoreUnavailableError"] == 1


# -- one span


def event(transition: Transition = TRIPPED, *, made: bool = True, after: float = 0.25) -> Applied:
    """Return a transition of `auth`, applied `after` seconds."""
    return Applied(breaker="auth", transition=transition, made=made, applied_at=transition.since + after)


async def sent(*events: Applied) -> list[ReadableSpan]:
    """Tell of the events, and return what is sent."""
    exporter = InMemorySpanExporter()
    async with Telemetry(exporter, resource=Resource({"service.name": "profile"})) as telemetry:
        for applied in events:
            telemetry.on_transition(applied)
    return list(exporter.get_finished_spans())


async def test_a_transitions_span_says_all_that_is_known() -> None:
    """Names, attributes, times and ids are those that the documentation promises."""
    with TracerProvider().get_tracer("main").start_as_current_span("a request that is no parent"):
        (span,) = await sent(event())
    assert span.name == "circuit_breaker.transition"
    assert span.parent is None
    assert span.attributes == {
        "circuit_breaker.name": "auth",
        "circuit_breaker.state": "open",
        "circuit_breaker.previous_state": "closed",
        "circuit_breaker.transition.id": 7,
        "circuit_breaker.incarnation": "00c0ffee00c0ffee",
        "circuit_breaker.transition.reason": "tripped",
        "circuit_breaker.replica": "pod-1",
        "circuit_breaker.failures": 5,
        "circuit_breaker.calls": 9,
        "circuit_breaker.cooldown": 30.0,
        "circuit_breaker.previous_state_duration": 12.5,
        "circuit_breaker.last_error_type": "ConnectError",
    }
    assert links(span) == {
        "cause": (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331),
        "previous": span_ids("auth", TRIPPED.previous),
    }
    assert [link.context.trace_flags.sampled for link in span.links] == [False, True]
    assert (span.start_time, span.end_time) == (1_795_000_000_123_000_000, 1_795_000_000_373_000_000)
    assert span.instrumentation_scope
    assert span.instrumentation_scope.name == "commontrip"
    assert span.resource.attributes["service.name"] == "profile"


async def test_an_observed_span_says_who_learned_and_when() -> None:
    """It is a child of the transition's span, which some other replica sends."""
    (span,) = await sent(event(made=False, after=0.003))
    assert span.name == "circuit_breaker.observed"
    assert span.parent
    assert (span.parent.trace_id, span.parent.span_id) == span_ids("auth", str(EPOCH))
    assert span.attributes
    assert span.attributes["circuit_breaker.transition.id"] == 7
    assert (span.end_time or 0) - (span.start_time or 0) == 3_000_000
    assert not span.links


async def test_replicas_that_have_no_name_yet_make_different_spans() -> None:
    """Two that watch nothing observe one transition, and both spans are kept."""
    first, second = await sent(event(made=False)), await sent(event(made=False))
    assert span_id(first[0]) != span_id(second[0])


def test_ids_are_the_same_in_every_release() -> None:
    """A change would make two spans of one transition in a rolling deploy."""
    assert span_ids("auth", str(EPOCH)) == (0xEF41AED4F73C04CA39210494E2CC5B24, 0x8A8B98E39A84FF5E)
    assert span_ids("auth", str(EPOCH), "pod-2") == (0xEF41AED4F73C04CA39210494E2CC5B24, 0xCB704187461950A8)


async def test_sent_by_another_replica_it_is_the_same_span() -> None:
    """Ids, attributes, links and times come from the record alone, not from who sends it."""
    exporter = InMemorySpanExporter()
    async with Telemetry(exporter) as other:
        other.emit(event())
    ours, theirs = await sent(event()), exporter.get_finished_spans()
    parts = [
        (s.context and (s.context.trace_id, s.context.span_id), s.attributes, links(s), s.start_time, s.end_time)
        for s in (*ours, *theirs)
    ]
    assert parts[0] == parts[1]
    assert len(parts) == 2


@pytest.mark.parametrize("made", [True, False])
async def test_no_span_ends_before_it_begins(*, made: bool) -> None:
    """A clock that was measured a little wrong makes a span without length."""
    (span,) = await sent(event(made=made, after=-5.0))
    assert span.start_time == span.end_time == 1_795_000_000_123_000_000


@pytest.mark.parametrize("previous", ["", "00c0ffee00c0ffee.0.00c0ffee00c0ffee"])
async def test_the_first_transition_links_to_none_before(previous: str) -> None:
    """What was before it is a seed, or unknown: there is no such span."""
    (span,) = await sent(event(replace(TRIPPED, previous=previous)))
    assert set(links(span)) == {"cause"}


async def test_a_transition_out_of_nothing_has_no_duration_before() -> None:
    """Where the store held nothing, the state before is none, and nothing lasted."""
    (span,) = await sent(event(replace(TRIPPED, previous="", previous_state=None, previous_since=0.0, error="")))
    assert span.attributes
    assert span.attributes["circuit_breaker.previous_state"] == "none"
    assert span.attributes["circuit_breaker.previous_state_duration"] == 0
    assert "circuit_breaker.last_error_type" not in span.attributes


@pytest.mark.parametrize(
    "cause",
    ["", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" * 90],
)
async def test_a_cause_that_is_none_is_no_link(cause: str) -> None:
    """Whatever a store holds as the cause, the span is made."""
    (span,) = await sent(event(replace(TRIPPED, cause=cause)))
    assert set(links(span)) == {"previous"}


async def test_hostile_text_is_text() -> None:
    """Whatever a record holds is passed on unchanged; who shows it must know what it is."""
    hostile = "<script>\x1b[31m\n\x00'; -- ẞ☃"
    before = "hostile.9.previous"
    (span,) = await sent(event(replace(TRIPPED, replica=hostile, reason=hostile, error=hostile, previous=before)))
    attributes = span.attributes or {}
    for name in ("replica", "transition.reason", "last_error_type"):
        assert attributes[f"circuit_breaker.{name}"] == hostile
    assert links(span)["previous"] == span_ids("auth", before)


# -- sending


async def test_a_silent_collector_costs_its_deadline_and_no_more(stuck: Stuck) -> None:
    """Flushing and closing give up in time, and the event loop runs on meanwhile."""
    turns = 0

    async def run_on() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    running_on = asyncio.create_task(run_on())
    telemetry = Telemetry(stuck)
    telemetry.on_transition(event())
    async with asyncio.timeout(5):
        assert not await telemetry.flush(0.1)
        assert not await telemetry.aclose(0.1)
    running_on.cancel()
    assert turns > 10


async def test_what_waits_while_the_collector_is_away_is_sent_when_it_is_back(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand transitions and as many observations lose nothing, however short other queues are."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    async with Telemetry(stuck) as telemetry:
        for n in range(1000):
            transition = replace(TRIPPED, epoch=replace(EPOCH, number=n))
            telemetry.on_transition(event(transition))
            telemetry.on_transition(event(transition, made=False))
        stuck.released.set()
    assert len(set(map(span_id, stuck.get_finished_spans()))) == 2000


def output(*lines: str) -> str:
    """Run a program whose `telemetry` has an exporter of its own, and return what it writes, on stderr nothing."""
    program = "\n".join(
        [
            "import asyncio",
            "from opentelemetry.sdk.trace.export import ConsoleSpanExporter",
            "from tests.breaker.test_opentelemetry import Stuck, Telemetry, event",
            *lines,
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    return done.stdout


def test_a_process_ends_although_the_collector_does_not_answer() -> None:
    """Once closing has given up, the interpreter does not wait for what has not left."""
    give_up = (
        "telemetry = Telemetry(Stuck()); telemetry.on_transition(event()); print(asyncio.run(telemetry.aclose(0.1)))"
    )
    assert output(give_up) == "False\n"


def test_what_was_not_closed_is_sent_at_the_end_of_the_process() -> None:
    """As the SDK's own providers do."""
    sent_at_exit = output("telemetry = Telemetry(ConsoleSpanExporter()); telemetry.on_transition(event())")
    assert '"name": "circuit_breaker.transition"' in sent_at_exit


class Broken(SpanExporter):
    """Raises whatever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Fail."""
        self.asked += len(spans)
        raise OSError("the collector is a teapot")

    def shutdown(self) -> None:
        """Fail."""
        raise OSError("so it stays")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_exporter_that_raises_changes_nothing() -> None:
    """The caller's results, the trip and the recovery are what they are without telemetry."""
    broken = Broken()
    telemetry = Telemetry(broken)
    async with telemetry, Breakers(MemoryStore(), listeners=[telemetry]) as breakers:
        replica = Replica(
            breakers, breakers.get("auth", POLICY), telemetry, InMemorySpanExporter(), InMemoryMetricReader()
        )
        await eventually_closed(replica)
        await trip(replica)
        await eventually_closed(replica)
        assert await telemetry.flush()
        assert replica.breaker.state == State.CLOSED
    assert broken.asked == 3


async def test_the_sdk_switched_off_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED=true holds for the provider of transitions too."""
    assert len(await sent(event())) == 1
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert await sent(event(), event(made=False)) == []


async def test_without_an_exporter_nothing_is_sent() -> None:
    """Metrics and attributes alone are a proper use; closing twice is harmless."""
    async with Telemetry() as telemetry, Breakers(MemoryStore(), listeners=[telemetry]) as breakers:
        telemetry.watch(breakers)
        await breakers.get("auth", POLICY).override(Override.FORCED_OPEN, author="a", reason="r")
        assert await telemetry.flush()
        assert await telemetry.aclose()


# -- the caller's span


@pytest.fixture
def tracer() -> Tracer:
    """A tracer that samples everything."""
    return TracerProvider().get_tracer("main")


async def attributes_after(tracer: Tracer, breaker: Breaker, error: BaseException | None) -> dict[str, Any]:
    """Return what the breaker wrote on the span of a call that ended so, refused or not."""

    async def call() -> None:
        if error:
            raise error

    with tracer.start_as_current_span("request", record_exception=False, set_status_on_exception=False) as span:
        with contextlib.suppress(type(error) if error else CircuitOpenError, CircuitOpenError):
            await breaker.call(call)
        assert isinstance(span, ReadableSpan)
        return dict(span.attributes or {})


def said(state: str, outcome: str, **more: str) -> dict[str, str]:
    """Return the attributes of a call's span."""
    return {
        "circuit_breaker.name": "auth",
        "circuit_breaker.state": state,
        "circuit_breaker.outcome": outcome,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


async def test_a_caller_sees_on_its_span_what_became_of_the_call(alone: Replica, tracer: Tracer) -> None:
    """Failures, slow calls, refusals and probes say so; successes and what is neutral add nothing."""
    breaker = alone.breaker
    for quiet in (None, LookupError(), asyncio.CancelledError()):
        assert await attributes_after(tracer, breaker, quiet) == {}
    assert await attributes_after(tracer, breaker, TimeoutError()) == said("closed", "slow")
    assert await attributes_after(tracer, breaker, ConnectionError()) == said("closed", "failure")
    await breaker.override(Override.FORCED_OPEN, author="a", reason="r")
    refused = said("open", "rejected", error_type="CircuitOpenError")
    assert await attributes_after(tracer, breaker, None) == refused
    await breaker.override(None, author="a", reason="r")
    assert await attributes_after(tracer, breaker, None) == said("half_open", "success")


async def test_a_span_that_does_not_record_is_left_alone(alone: Replica) -> None:
    """Without a span, or with one that is not sampled, a call costs what it must and says nothing."""
    await trip(alone)
    alone.telemetry.on_call("auth", State.OPEN, Outcome.REJECTED, probe=False)
    assert alone.telemetry.cause() == ""


# -- metrics

UNITS = {
    "circuit_breaker.calls": ("{call}", "Sum"),
    "circuit_breaker.transitions": ("{transition}", "Sum"),
    "circuit_breaker.state": ("{breaker}", "Gauge"),
    "circuit_breaker.override": ("{breaker}", "Gauge"),
    "circuit_breaker.local_mode": ("{breaker}", "Gauge"),
    "circuit_breaker.propagation": ("s", "Histogram"),
    "circuit_breaker.store.duration": ("s", "Histogram"),
    "circuit_breaker.store.errors": ("{error}", "Sum"),
}


async def test_the_metrics_are_those_of_the_documentation(fleet: list[Replica]) -> None:
    """Each by its name, unit and kind; counters only rise."""
    await trip_and_recover(fleet, fleet[0], fleet[1])
    fleet[1].telemetry.on_store("read", 0.5, "StoreSilentError")
    data = fleet[1].reader.get_metrics_data()
    assert data
    found = {m.name: (m.unit, m.data) for m in data.resource_metrics[0].scope_metrics[0].metrics}
    assert {name: (unit, type(d).__name__) for name, (unit, d) in found.items()} == UNITS
    assert all(getattr(d, "is_monotonic", True) for _, d in found.values())


async def test_calls_and_states_are_counted_per_breaker(alone: Replica) -> None:
    """Every call by its outcome, and exactly one state that holds."""
    await trip(alone)
    with pytest.raises(CircuitOpenError):
        await alone.breaker.call(works)
    calls = points(alone.reader, "circuit_breaker.calls")
    assert {outcome: count for (_, outcome), count in calls.items() if count} == {
        "success": 1,
        "failure": 2,
        "rejected": 1,
    }
    assert len(calls) == len(Outcome)
    assert points(alone.reader, "circuit_breaker.state") == {
        ("auth", "closed"): 0,
        ("auth", "open"): 1,
        ("auth", "half_open"): 0,
    }
    assert points(alone.reader, "circuit_breaker.local_mode") == {("auth",): 0}


async def test_who_has_not_used_a_breaker_says_nothing_of_its_state(fleet: list[Replica]) -> None:
    """An idle replica knows no state: said to be closed, the fleet's open circuit would be closed somewhere."""
    search, *_ = [replica.breakers.get("search", POLICY) for replica in fleet]
    await search.call(works)
    await search.override(Override.FORCED_OPEN, author="ann", reason="drill")
    said = [points(replica.reader, "circuit_breaker.state") for replica in fleet]
    assert [{state: value for (name, state), value in one.items() if name == "search"} for one in said] == [
        {"closed": 0, "open": 1, "half_open": 0},
        {},
        {},
    ]


async def test_an_order_in_force_is_told_by_every_replica(fleet: list[Replica]) -> None:
    """A disabled circuit is closed by its state: that somebody ordered it is a metric of its own."""
    none = dict.fromkeys([("auth", "forced_open"), ("auth", "disabled"), ("auth", "observe")], 0)
    for order, told in ((Override.DISABLED, {("auth", "disabled"): 1}), (None, {})):
        await fleet[0].breaker.override(order, author="ann", reason="drill")
        await eventually(lambda order=order: all(r.breaker.snapshot.override == order for r in fleet), "the order")  # type: ignore[misc]
        assert [points(r.reader, "circuit_breaker.override") for r in fleet] == [none | told] * 3
    fleet[0].breakers.get("unused", POLICY)
    assert points(fleet[0].reader, "circuit_breaker.override") == none


async def test_transitions_add_up_over_the_fleet(fleet: list[Replica]) -> None:
    """Whoever made one counts it, all others how late they learned of it."""
    await trip_and_recover(fleet, fleet[0], fleet[1])
    found = [points(r.reader, "circuit_breaker.transitions") for r in fleet]
    assert [{change: count for change, count in made.items() if count} for made in found] == [
        {("auth", "closed", "open", "tripped"): 1},
        {("auth", "half_open", "closed", "probes_succeeded"): 1, ("auth", "open", "half_open", "cooldown_over"): 1},
        {},
    ]
    learned = [points(r.reader, "circuit_breaker.propagation")["auth",] for r in fleet]
    assert [point.count for point in learned] == [2, 1, 3]
    assert all(0 <= point.min <= point.max < 10 for point in learned)
    assert learned[0].explicit_bounds[:2] == (0.0005, 0.001)


async def test_the_first_trip_is_an_increase(alone: Replica) -> None:
    """Usual transitions are counted from 0 on, also before the first call: what is new at 1 would look like no news."""
    alone.breakers.get("unused", POLICY)
    before = points(alone.reader, "circuit_breaker.transitions")
    usual = [
        *(("closed", "open", "tripped"), ("open", "half_open", "cooldown_over")),
        *(("half_open", "closed", "probes_succeeded"), ("half_open", "open", "probes_failed")),
    ]
    assert before == {(name, *change): 0 for name in ("auth", "unused") for change in usual}
    await trip(alone)
    await alone.breaker.override(None, author="ann", reason="drill")
    after = points(alone.reader, "circuit_breaker.transitions")
    assert after == before | {("auth", *usual[0]): 1, ("auth", "open", "closed", "override"): 1}


async def test_transitions_of_what_is_gone_are_not_kept(alone: Replica) -> None:
    """A breaker that nobody holds any more leaves no counts behind, as one per host would pile up."""
    alone.telemetry.on_transition(replace(event(), breaker="host-1"))
    assert {name for name, *_ in points(alone.reader, "circuit_breaker.transitions")} == {"auth"}
    assert alone.telemetry._made == {}


async def test_exchanges_with_the_store_are_measured(fleet: list[Replica]) -> None:
    """By operation; what failed also by the error's type."""
    await trip(fleet[0])
    await fleet[0].breaker.history()
    fleet[0].telemetry.on_store("read", 0.5, "StoreSilentError")
    durations = points(fleet[0].reader, "circuit_breaker.store.duration")
    assert durations["record",].count >= 1
    assert 0 < durations["history",].sum < 10
    assert durations["read", "StoreSilentError"].sum == 0.5
    assert points(fleet[0].reader, "circuit_breaker.store.errors") == {("read", "StoreSilentError"): 1}


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
async def test_metrics_are_collected_while_breakers_are_made(alone: Replica) -> None:
    """The event loop goes on while the thread of a reader looks at all breakers."""
    made, failures = threading.Event(), []

    def look() -> None:
        while not made.is_set():
            try:
                list(alone.breakers)
            except RuntimeError as error:
                failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for n in range(5000):
        alone.breakers.get(f"auth-{n}", POLICY)
    made.set()
    thread.join()
    assert failures == []


@pytest.mark.parametrize("error", [None, ConnectionError()])
async def test_no_counter_of_calls_ever_falls(error: Exception | None) -> None:
    """Also when a call hangs, counts as slow while it does, and then ends in some way: a fall looks like a restart."""
    ended, seen = asyncio.Event(), []

    async def hang() -> None:
        await ended.wait()
        if error:
            raise error

    async with running(MemoryStore(), Policy(trip=SlowCallRate(0.9, 0.03, minimum_calls=100))) as replica:

        def collect() -> None:
            seen.append(points(replica.reader, "circuit_breaker.calls"))

        call = asyncio.create_task(replica.breaker.call(hang))
        await eventually(lambda: replica.breaker.snapshot.counts.slow == 1, "the call to count as slow")
        collect()
        ended.set()
        await asyncio.wait({call})
        assert call.exception() is error
        collect()
    assert [key for key, count in seen[0].items() if seen[1][key] < count] == []
