"""How long calls take, for who asks: every admitted call once, by its outcome, however it is guarded."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from commontrip import (
    AnyOf,
    Breaker,
    Breakers,
    CircuitOpenError,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    Listener,
    MemoryStore,
    Outcome,
    Policy,
    SlowCallRate,
    State,
    SuccessRatio,
)
from commontrip.opentelemetry import Telemetry
from commontrip.testing import FakeClock
from tests.support.waiting import PATIENCE

CLASSIFY = Classify(ignored=(LookupError,))
TRIP = ConsecutiveFailures(2)
PLAIN = Policy(trip=TRIP, recover=SuccessRatio(1, probes=1), cooldown=Cooldown(30, jitter=0), classify=CLASSIFY)
SLOW = replace(PLAIN, trip=AnyOf(TRIP, SlowCallRate(0.9, slower_than=5, minimum_calls=50)))
Guard = Callable[[Breaker, Callable[[], Awaitable[None]]], Awaitable[None]]


class Timer(Listener):
    """Remembers how long calls took, in whole seconds."""

    times_calls = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, Outcome, int]] = []

    def on_ended(self, breaker: str, outcome: Outcome, seconds: float) -> None:
        """Keep it."""
        self.heard.append((breaker, outcome, round(seconds)))


async def around(breaker: Breaker, work: Callable[[], Awaitable[None]]) -> None:
    """Guard by `async with`."""
    async with breaker:
        await work()


async def decorated(breaker: Breaker, work: Callable[[], Awaitable[None]]) -> None:
    """Guard by the decorator."""

    @breaker
    async def guarded() -> None:
        await work()

    await guarded()


async def called(breaker: Breaker, work: Callable[[], Awaitable[None]]) -> None:
    """Guard by `call`."""
    await breaker.call(work)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that calls move."""
    return FakeClock()


def work(clock: FakeClock, seconds: float, error: BaseException | None = None) -> Callable[[], Awaitable[None]]:
    """Return what takes so long, and then raises or not."""

    async def takes() -> None:
        clock.advance(seconds)
        if error:
            raise error

    return takes


@pytest.mark.parametrize("policy", [PLAIN, SLOW], ids=["plain", "slow counts"])
@pytest.mark.parametrize("guard", [around, decorated, called])
async def test_every_call_that_was_admitted_is_timed(guard: Guard, policy: Policy, clock: FakeClock) -> None:
    """Good, bad, neutral, cancelled and slow ones, and probes, each once; who was refused was not called."""
    timer = Timer()
    async with Breakers(MemoryStore(clock=clock), listeners=[timer], clock=clock, store_budget=PATIENCE) as breakers:
        breaker = breakers.get("auth", policy)
        await guard(breaker, work(clock, 1))
        with pytest.raises(LookupError):
            await guard(breaker, work(clock, 2, LookupError()))
        with pytest.raises(asyncio.CancelledError):
            await guard(breaker, work(clock, 3, asyncio.CancelledError()))
        await guard(breaker, work(clock, 6))
        for _ in range(2):
            with pytest.raises(OSError, match="no"):
                await guard(breaker, work(clock, 0, OSError("no")))
        with pytest.raises(CircuitOpenError):
            await guard(breaker, work(clock, 9))
        await breakers.flush()
        clock.advance(31)
        await guard(breaker, work(clock, 4))
        assert breaker.state == State.CLOSED
    assert timer.heard == [
        ("auth", Outcome.SUCCESS, 1),
        ("auth", Outcome.IGNORED, 2),
        ("auth", Outcome.CANCELLED, 3),
        ("auth", Outcome.SLOW if policy is SLOW else Outcome.SUCCESS, 6),
        *[("auth", Outcome.FAILURE, 0)] * 2,
        ("auth", Outcome.SUCCESS, 4),
    ]


@pytest.mark.parametrize("durations", [False, True])
async def test_telemetry_measures_them_on_request(durations: bool, clock: FakeClock) -> None:  # noqa: FBT001
    """As a histogram by name and outcome; unless it was asked for there is none, also when others time calls."""
    reader, timer = InMemoryMetricReader(), Timer()
    telemetry = Telemetry(meter_provider=MeterProvider([reader]), call_durations=durations)
    listeners = [telemetry] if durations else [telemetry, timer]
    async with telemetry, Breakers(MemoryStore(clock=clock), listeners=listeners, clock=clock) as breakers:
        await breakers.get("auth", PLAIN).call(work(clock, 2))
        data = reader.get_metrics_data()
    assert data
    found = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert ("circuit_breaker.call.duration" in found) is durations
    if durations:
        metric = found["circuit_breaker.call.duration"]
        [point] = metric.data.data_points
        assert (metric.unit, point.attributes) == (
            "s",
            {"circuit_breaker.name": "auth", "circuit_breaker.outcome": "success"},
        )
        assert (point.count, round(point.sum)) == (1, 2)
    else:
        assert timer.heard == [("auth", Outcome.SUCCESS, 2)]


async def test_calls_are_timed_for_none_who_did_not_ask(clock: FakeClock) -> None:
    """A listener like any other costs a closed call nothing: it hears of no ends."""

    class Silent(Timer):
        times_calls = False

    silent = Silent()
    async with Breakers(MemoryStore(clock=clock), listeners=[silent], clock=clock) as breakers:
        for guard in (around, decorated, called):
            await guard(breakers.get("auth", SLOW), work(clock, 1))
    assert silent.heard == []
