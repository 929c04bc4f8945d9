"""A transition is never without its span: what its maker did not deliver, another replica does."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    Override,
    Policy,
    State,
    SuccessRatio,
    Transition,
    _transition,
)
from commontrip.opentelemetry import Telemetry, _delivery, _recovery, span_ids
from commontrip.redis import RedisStore
from commontrip.testing import RecordingListener
from tests.breaker.caller import Caller
from tests.support.servers import Server
from tests.support.unreliable_store import UnreliableStore
from tests.support.waiting import eventually

PATIENCE = 0.2
POLICY = Policy(
    trip=ConsecutiveFailures(2), recover=SuccessRatio(1, probes=1), cooldown=Cooldown(0.05, 1, 0.05, jitter=0)
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans leave well before others become impatient."""
    monkeypatch.setattr("commontrip.opentelemetry._EVERY_MS", 20.0)


class Exporter(InMemorySpanExporter):
    """Delivers while it `works`."""

    def __init__(self, *, works: bool = True) -> None:
        super().__init__()
        self.works = works
        self.asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the spans, or say that they have not arrived."""
        self.asked += 1
        return super().export(spans) if self.works else SpanExportResult.FAILURE


class Replica:
    """One process of a fleet, with an exporter of its own and a store that counts."""

    def __init__(self, url: str, prefix: str, *, works: bool = True, name: str = "") -> None:
        self.exporter = Exporter(works=works)
        self.store = UnreliableStore(RedisStore.from_url(url, prefix=prefix))
        self.telemetry = Telemetry(self.exporter, patience=PATIENCE)
        self.heard = RecordingListener()
        self.breakers = Breakers(self.store, listeners=[self.telemetry, self.heard], replica=name, store_budget=5)

    @property
    def breaker(self) -> Breaker:
        """The breaker `auth`."""
        return self.breakers.get("auth", POLICY)

    async def call(self, error: Exception | None = None) -> None:
        """Make one call, which may fail."""
        with contextlib.suppress(ConnectionError, CircuitOpenError):
            async with self.breaker:
                if error:
                    raise error

    async def trip(self) -> None:
        """Let the circuit open."""
        for _ in range(2):
            await self.call(ConnectionError())
        await eventually(lambda: self.breaker.state == State.OPEN, "the circuit to open")

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of transitions that it delivered."""
        return [one for one in self.exporter.get_finished_spans() if one.name == "circuit_breaker.transition"]

    def sent(self, epoch: str) -> int:
        """Return how often it has delivered the span of a transition."""
        wanted = span_ids("auth", epoch)[1]
        return sum(span.context is not None and span.context.span_id == wanted for span in self.spans())

    @property
    def idle(self) -> bool:
        """Whether it will look at nothing any more."""
        recovery = self.telemetry._recovery
        return recovery is None or bool(
            not recovery._looks and recovery._looking_back and recovery._looking_back.done()
        )

    def looks(self) -> int:
        """Return how often it looked."""
        return sum(operation == "untold" for operation, _ in self.store.asked)


Join = Callable[..., contextlib.AbstractAsyncContextManager[Replica]]


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Make replicas of one fleet."""

    @asynccontextmanager
    async def joined(**how: object) -> AsyncIterator[Replica]:
        one = Replica(redis_url, prefix, **how)  # type: ignore[arg-type]
        async with AsyncExitStack() as stack:
            stack.push_async_callback(one.telemetry.aclose, 0.3)
            await stack.enter_async_context(one.breakers)
            await one.call()
            yield one

    return joined


def epoch_of(replica: Replica) -> str:
    """Return the epoch that a replica sees."""
    return replica.breaker.snapshot.epoch


def told(server: Server, prefix: str) -> dict[str, float]:
    """Return what is noted as told, and until when."""
    found = server.cli("ZRANGE", f"{prefix}:auth:v1:told", 0, -1, "WITHSCORES")
    assert isinstance(found, list)
    return {str(key): float(str(score)) for key, score in zip(found[::2], found[1::2], strict=True)}


# -- who sends what


async def test_what_its_maker_cannot_deliver_another_replica_sends(join: Join) -> None:
    """The span is that of its maker: ids, times, attributes and links; only how long it applied it nobody knows."""
    async with join(works=False, name="maker") as maker, join() as second, join() as third:
        await maker.trip()
        epoch = epoch_of(maker)
        await eventually(lambda: bool(second.spans() + third.spans()), "the span")
        made = maker.breaker.snapshot.transition
    (span,) = second.spans() + third.spans()
    assert made
    assert span.context
    assert (span.context.trace_id, span.context.span_id) == span_ids("auth", epoch)
    assert span.start_time == span.end_time == round(made.since * 1000) * 1_000_000
    assert (span.attributes or {})["circuit_breaker.replica"] == "maker"
    assert (span.attributes or {})["circuit_breaker.failures"] == 2


async def test_what_is_delivered_is_noted_and_sent_by_nobody_else(server: Server, prefix: str, join: Join) -> None:
    """The few who look find nothing to do."""
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(join()) for _ in range(6)]
        await fleet[0].trip()
        await eventually(lambda: epoch_of(fleet[0]) in told(server, prefix), "the note")
        await eventually(lambda: sum(one.looks() for one in fleet) == _recovery.LOOKERS, "the looks")
        assert [len(one.spans()) for one in fleet] == [1, 0, 0, 0, 0, 0]
        assert fleet[0].looks() == 0  # whoever made it knows


async def test_a_transition_costs_the_fleet_one_note_and_three_looks(join: Join) -> None:
    """However many replicas there are, and newcomers aside, who look once."""
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(join()) for _ in range(10)]
        await fleet[3].trip()
        await eventually(lambda: sum(one.looks() for one in fleet) == 3, "three looks")
        await eventually(lambda: all(one.idle for one in fleet), "that none is due")
        asked = Counter(operation for one in fleet for operation, _ in one.store.asked)
    assert (asked["told"], asked["untold"]) == (1, 3)


async def test_who_cannot_deliver_takes_no_turn_from_those_who_can(join: Join) -> None:
    """It looks when it can again, and finds that another has done it."""
    async with join(works=False) as maker, join(works=False) as second, join() as third:
        await maker.trip()
        epoch = epoch_of(maker)
        recovery, asked = second.telemetry._recovery, list[bool]()
        assert recovery
        able = recovery._able
        recovery._able = lambda: asked.append(able()) or asked[-1]  # type: ignore[func-returns-value]
        second.telemetry.on_learned("auth", 2)
        await eventually(lambda: third.sent(epoch) == 1, "the span")
        await eventually(lambda: len(asked) > 1, "its turn, twice")
        assert (second.looks(), any(asked)) == (0, False)
        maker.exporter.works = second.exporter.works = True
        await eventually(lambda: second.idle and third.idle, "the last look")
        assert second.looks() > 0
        assert second.sent(epoch) == 0


async def test_a_newcomer_sends_what_was_left(server: Server, prefix: str, join: Join) -> None:
    """Where nobody was there to look, the next process sends all that its breakers' makers have not."""
    caller = Caller(RedisStore.from_url(server.url, prefix=prefix), replica="killed")
    await caller.seed()
    views = [await caller.open(), await caller.change(State.CLOSED)]
    async with join() as newcomer:
        await eventually(lambda: len(newcomer.spans()) == 2, "the spans")
        assert newcomer.looks() == 1
        wanted = [span_ids("auth", str(view.transition and view.transition.epoch))[1] for view in views]
        assert [span.context and span.context.span_id for span in newcomer.spans()] == wanted
        await eventually(lambda: len(told(server, prefix)) == 2, "the notes")
    async with join() as later:
        await eventually(lambda: later.looks() == 1, "its look")
        assert later.spans() == []
    await caller.store.aclose()  # type: ignore[attr-defined]


async def test_a_name_that_comes_back_tells_nothing_again(join: Join) -> None:
    """A process that takes the name of one before it has made nothing yet; what that one left unsent, it sends."""
    async with join(works=False, name="pod-1") as before:
        await before.breaker.override(Override.FORCED_OPEN, author="a", reason="r")
        epoch = epoch_of(before)
    async with join(name="pod-1") as after:
        await eventually(lambda: after.sent(epoch) == 1, "the span")
        (span,) = after.spans()
        assert span.start_time == span.end_time  # not since then
        assert after.heard.transitions == []
        await after.breaker.override(None, author="a", reason="r")
        assert [one.made for one in after.heard.transitions] == [True]


async def test_a_newcomer_looks_only_where_something_has_happened(join: Join) -> None:
    """A breaker that was just made, or not used yet, has nothing to look for."""
    async with join() as newcomer:
        newcomer.breakers.get("unused", POLICY)
        await eventually(lambda: newcomer.idle, "its turn")
        await newcomer.trip()
        assert newcomer.looks() == 0


async def test_who_has_it_in_its_own_queue_does_not_send_it_twice(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn to send what has not left yet changes nothing."""
    monkeypatch.setattr("commontrip.opentelemetry._EVERY_MS", 60_000.0)
    async with join() as maker:
        await maker.trip()
        maker.telemetry.on_learned("auth", 2)
        await eventually(lambda: maker.idle, "its turn")
        assert (maker.looks(), maker.exporter.asked) == (1, 0)
        assert await maker.telemetry.flush()
        assert len(maker.spans()) == 1


async def test_many_transitions_in_a_row_are_one_look(join: Join) -> None:
    """While a look is due, further transitions of that breaker wait for the one after it."""
    async with join(works=False) as maker, join() as second:
        await maker.trip()
        for _ in range(50):
            second.telemetry.on_learned("auth", 2)
        await eventually(lambda: bool(second.spans()), "the span")
        await eventually(lambda: second.idle, "the end")
        assert second.looks() <= 2


# -- when there is no store, no exporter, no time


async def test_while_the_store_is_away_nobody_notes_or_looks(join: Join) -> None:
    """Local mode has no fleet; whoever is back finds what was left."""
    async with join() as one:
        await one.trip()
        assert await one.telemetry.flush()
        one.store.refusing = True
        await eventually(lambda: one.breakers.local, "local mode")
        asked = one.looks()
        one.telemetry.on_learned("auth", 2)
        assert one.telemetry._recovery
        one.telemetry._recovery.delivered([("auth", epoch_of(one))])
        await one.telemetry._recovery.settled()
        await eventually(lambda: one.idle, "its turn")
        assert one.looks() == asked


async def test_a_store_that_fails_at_a_look_or_a_note_is_no_trouble(join: Join) -> None:
    """It is reported as any other exchange, and the span is sent again some time."""
    async with join() as one:
        one.store.refuse(of="told")
        one.store.lose_requests(of="untold")
        await one.trip()
        one.telemetry.on_learned("auth", 2)
        await eventually(lambda: one.looks() == 1, "its turn")
        assert await one.telemetry.flush()
        assert len(one.spans()) == 1


@pytest.mark.parametrize("how", ["disabled", "no exporter"])
async def test_who_sends_no_spans_notes_and_looks_for_none(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Without an exporter, or with the SDK switched off, the fleet's others are not told that it was done."""
    if how == "disabled":
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    one = Replica(redis_url, prefix)
    telemetry = Telemetry(one.exporter if how == "disabled" else None, patience=0.1)
    async with telemetry, Breakers(one.store, listeners=[telemetry], store_budget=5) as breakers:
        one.breakers = breakers
        await one.call()
        await one.trip()
        telemetry.on_learned("auth", 2)
        assert await telemetry.flush()
        await asyncio.sleep(0.4)
        assert {operation for operation, _ in one.store.asked}.isdisjoint({"told", "untold"})


async def test_flushed_before_the_fleet_is_left_the_last_span_is_noted(server: Server, prefix: str, join: Join) -> None:
    """Flushing waits for the note, so that nobody sends again what has arrived."""
    async with join() as one:
        one.store.delay("request", 0.2, of="told")
        await one.trip()
        assert await one.telemetry.flush()
        assert set(told(server, prefix)) == {epoch_of(one)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a batch up at once, and rest for a moment only."""
    monkeypatch.setattr(_delivery, "_PAUSE", 0.001)
    monkeypatch.setattr(_delivery, "TRY_FOR", 0.01)
    monkeypatch.setattr(_delivery, "_REST", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_what_has_not_arrived_is_not_noted(server: Server, prefix: str, join: Join) -> None:
    """A batch that was given up is as if it had never been sent: others may have more luck, or this one later."""
    async with join(works=False) as one:
        await one.trip()
        epoch = epoch_of(one)
        await eventually(lambda: not one.telemetry._sending and one.exporter.asked > 1, "the batch to be given up")
        assert await one.telemetry.flush()
        assert told(server, prefix) == {}
        one.exporter.works = True
        await eventually(lambda: one.sent(epoch) == 1, "the span")


@pytest.mark.usefixtures("impatient")
async def test_after_a_long_outage_what_was_given_up_is_sent_without_any_news(join: Join) -> None:
    """Whoever gave a batch up tries again after a rest, as often as need be: no further transition has to come."""
    async with join(works=False) as one:
        await one.trip()
        epoch = epoch_of(one)
        await eventually(lambda: one.looks() >= 2, "a second look, as the first was in vain")
        one.exporter.works = True
        await eventually(lambda: one.sent(epoch) == 1, "the span")
        await eventually(lambda: one.idle, "that no look is due")


async def test_what_arrives_after_the_loop_has_ended_is_noted_by_nobody() -> None:
    """The exporter's thread may be the last to end."""
    found: list[_recovery.Recovery] = []

    async def begin() -> None:
        async with Breakers(RedisStore.from_url("redis://127.0.0.1:1")) as breakers:
            found.append(_recovery.Recovery(breakers, lambda *_: None, lambda: True, 1.0))

    await asyncio.to_thread(asyncio.run, begin())
    found[0].delivered([("auth", "ab.1.cd")])


async def test_a_queue_that_was_too_short_leaves_nothing_behind() -> None:
    """What is remembered of spans on their way is bounded."""
    async with Telemetry(Exporter()) as telemetry:
        for number in range(5000):
            telemetry._sending[number] = ("auth", str(number))
        made = Transition(epoch=_epoch(), state=State.OPEN, since=1.0)
        telemetry._recover("auth", made)
        assert len(telemetry._sending) <= 4096
        assert ("auth", str(made.epoch)) in telemetry._sending.values()


def _epoch() -> _transition.Epoch:
    return _transition.Epoch("ab", 1, "cd")


# -- a delivery


class Heard:
    """What became of the batches."""

    def __init__(self) -> None:
        self.ends: list[bool] = []

    def __call__(self, spans: Sequence[ReadableSpan], *, arrived: bool) -> None:
        """Note it."""
        assert list(spans) == []
        self.ends.append(arrived)


async def test_a_batch_is_tried_again_until_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits behind it is told once, when it has arrived."""
    monkeypatch.setattr(_delivery, "_PAUSE", 0.001)
    heard, exporter = Heard(), Exporter(works=False)
    delivery = _delivery.Delivery(exporter, heard)
    sending = asyncio.create_task(asyncio.to_thread(delivery.export, ()))
    await eventually(lambda: exporter.asked >= 5, "five tries")
    exporter.works = True
    assert await sending is SpanExportResult.SUCCESS
    assert heard.ends == [True]


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_batch_is_given_up_after_a_minute_or_at_the_end(
    monkeypatch: pytest.MonkeyPatch, *, leaving: bool
) -> None:
    """A batch that nobody will ever take does not keep the others for ever, nor the process from its end."""
    monkeypatch.setattr(_delivery, "_PAUSE", 0.001 if not leaving else 30.0)
    monkeypatch.setattr(_delivery, "TRY_FOR", 0.01 if not leaving else 60.0)
    heard, exporter = Heard(), Exporter(works=False)
    delivery = _delivery.Delivery(exporter, heard)
    if leaving:
        threading.Timer(0.01, delivery.leaving.set).start()
    assert await asyncio.to_thread(delivery.export, ()) is SpanExportResult.FAILURE
    assert heard.ends == [False]
