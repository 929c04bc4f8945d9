"""One breaker as its user sees it: fallbacks, classification, slow and hanging calls, orders, and looking."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from commontrip import (
    AnyOf,
    Breaker,
    Breakers,
    CircuitOpenError,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    Counts,
    FailureCount,
    MemoryStore,
    Outcome,
    Override,
    Policy,
    SlowCallRate,
    State,
    StoreUnavailableError,
    SuccessRatio,
    Trip,
)
from commontrip.redis import RedisStore
from commontrip.testing import FakeClock, RecordingListener
from tests.support.waiting import PATIENCE, eventually


class Boom(Exception):  # noqa: N818 - what the dependency did
    """What the dependency does."""


class Busy(Exception):  # noqa: N818 - what the dependency did
    """What the policy ignores."""


class Lame(Exception):  # noqa: N818 - what the dependency did
    """What the policy calls slow."""


async def boom(error: type[BaseException] = Boom) -> str:
    """Fail."""
    raise error


async def fine(value: Any = "fine") -> Any:
    """Succeed."""
    return value


def policy(trip: Trip | None = None, **settings: Any) -> Policy:
    """Make a policy that opens for 30 s, exactly."""
    given = {"recover": SuccessRatio(1.0, 1), "cooldown": Cooldown(30, 1, 60, 0), "window": 60.0} | settings
    return Policy(trip=trip or ConsecutiveFailures(3), **given)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
def heard() -> RecordingListener:
    """What the replica hears."""
    return RecordingListener()


@pytest.fixture
async def breakers(clock: FakeClock, heard: RecordingListener) -> AsyncIterator[Breakers]:
    """One replica on a memory store."""
    async with Breakers(MemoryStore(clock=clock), clock=clock, listeners=[heard], replica="r1") as started:
        yield started


async def fail(breaker: Breaker, times: int = 1, error: type[Exception] = Boom) -> None:
    """Let calls fail."""
    for _ in range(times):
        with pytest.raises(error):
            await breaker.call(boom, error)


async def counted(breakers: Breakers, breaker: Breaker) -> Counts:
    """Return what the store has counted, once all is sent."""
    await breakers.flush()
    return (await breaker.read()).counts


async def opened(breakers: Breakers, breaker: Breaker, times: int = 3) -> None:
    """Trip."""
    await fail(breaker, times)
    await breakers.flush()
    assert breaker.state is State.OPEN


# -- call by call, with and without a fallback


async def test_arguments_and_results_pass_through(breakers: Breakers) -> None:
    """A call gets its arguments, whatever their names, and its value comes back unchanged."""

    async def echo(*args: object, **kwargs: object) -> object:
        return args, kwargs

    auth, value = breakers.get("auth"), object()
    expected = ((1, 2), {"function": 3, "self": 4, "name": value})
    assert await auth.call(echo, 1, 2, **expected[1]) == expected
    assert await auth.call(echo, 1, 2, **expected[1], fallback=lambda _: None) == expected
    assert await auth(echo)(1, 2, **expected[1]) == expected


async def _awaited(error: Exception) -> str:
    return f"instead of {type(error).__name__}"


@pytest.mark.parametrize("fallback", [_awaited, lambda error: f"instead of {type(error).__name__}"])
async def test_a_fallback_stands_in(breakers: Breakers, fallback: Callable[[Exception], Any]) -> None:
    """When the call failed or was slow, and when the circuit is open, the fallback's value is returned."""
    auth = breakers.get("auth", policy(classify=Classify(ignored=(Busy,), slow=(Lame,))))
    assert await auth.call(boom, Lame, fallback=fallback) == "instead of Lame"
    for _ in range(3):
        assert await auth.call(boom, fallback=fallback) == "instead of Boom"
    assert await auth.call(fine, fallback=fallback) == "instead of CircuitOpenError"
    assert (await counted(breakers, auth)).calls == 0  # of the new epoch
    assert auth.state is State.OPEN


@pytest.mark.parametrize("error", [Busy, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_fallback_hides_nothing_else(breakers: Breakers, error: type[BaseException]) -> None:
    """What is ignored, and who leaves, passes by the fallback."""
    auth = breakers.get("auth", policy(classify=Classify(ignored=(Busy,))))
    with pytest.raises(error):
        await auth.call(boom, error, fallback=lambda _: "instead")


async def test_a_fallbacks_own_error_passes(breakers: Breakers) -> None:
    """What the fallback raises is the caller's, with the cause attached; the call has counted once."""

    def worse(_: Exception) -> str:
        raise LookupError("no stale value either")

    auth = breakers.get("auth", policy())
    with pytest.raises(LookupError) as caught:
        await auth.call(boom, fallback=worse)
    assert isinstance(caught.value.__context__, Boom)
    assert await counted(breakers, auth) == Counts(1, 1, 0, 1, 1)


async def test_a_success_needs_no_fallback(breakers: Breakers) -> None:
    """The fallback is not asked when there is a value, even one that counts as a failure."""
    auth = breakers.get("auth", policy(classify=Classify(result=lambda _: Outcome.FAILURE)))
    assert await auth.call(fine, "value", fallback=lambda _: "instead") == "value"
    assert (await counted(breakers, auth)).failures == 1


async def test_a_fallback_stands_in_for_this_circuit_only(breakers: Breakers) -> None:
    """Another breaker's refusal is an error like any: where the policy ignores it, it passes by the fallback."""
    auth = breakers.get("auth", policy(classify=Classify(ignored=(CircuitOpenError,))))
    with pytest.raises(CircuitOpenError, match="other"):
        await auth.call(refused, "other", fallback=lambda _: "instead")
    assert await auth.call(refused, "auth", fallback=lambda _: "instead") == "instead"


# -- a call within a call


async def refused(name: str) -> str:
    """Be refused by a breaker."""
    raise CircuitOpenError(name, 1.0)


async def test_an_inner_refusal_is_no_failure(breakers: Breakers) -> None:
    """A refusal of the very breaker, raised by a call within the call, says nothing of the dependency; others do."""
    auth = breakers.get("auth", policy(FailureCount(9), classify=Classify(retry_after=lambda _: 60.0)))
    for name in ("auth", "other"):
        with pytest.raises(CircuitOpenError):
            await auth.call(refused, name)
    assert await counted(breakers, auth) == Counts(1, 1, 0, 1, 1)
    assert auth.snapshot.calls[Outcome.IGNORED] == 1


async def test_a_probe_within_a_probe_opens_nothing(breakers: Breakers, clock: FakeClock) -> None:
    """A probe whose inner call finds no place gives its own back, and the next one decides."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    clock.advance(30.0)
    with pytest.raises(CircuitOpenError):
        await auth.call(auth(fine))
    await breakers.flush()
    assert auth.state is State.HALF_OPEN
    assert await auth.call(fine) == "fine"
    assert auth.state is State.CLOSED


# -- blocks that are left in another order than they were entered


async def test_generators_may_mix_the_order(breakers: Breakers) -> None:
    """Blocks of generators that end in the order in which they began each count their own outcome (race 38)."""
    names = ("a", "b", "c")
    each = {name: breakers.get(name, policy(FailureCount(9))) for name in names}

    async def block(breaker: Breaker) -> AsyncIterator[None]:
        async with breaker:
            yield
            raise Boom

    blocks = [block(each[name]) for name in names]
    for one in blocks:
        await anext(one)
    for one in blocks:
        with pytest.raises(Boom):
            await anext(one)
    async with each["a"]:
        pass
    assert [await counted(breakers, each[name]) for name in names] == [Counts(2, 1, 0, 1), *2 * [Counts(1, 1, 0, 1, 1)]]


async def test_a_block_left_in_another_task_counts_as_nothing(breakers: Breakers) -> None:
    """A block is left by the task that has entered it; by another it is left without an outcome or an error."""
    auth = breakers.get("auth", policy())
    await asyncio.create_task(auth.__aenter__())
    await auth.__aexit__(None, None, None)
    assert await counted(breakers, auth) == Counts()


# -- classification


async def test_errors_count_as_the_policy_says(breakers: Breakers) -> None:
    """Failures, slow ones, ignored ones and those who leave are each counted as what they are."""
    auth = breakers.get("auth", policy(classify=Classify(failures=(Boom,), ignored=(Busy,), slow=(Lame,))))
    await auth.call(fine)
    for error in (Boom, Busy, Lame, OSError):
        await fail(auth, 1, error)
    with pytest.raises(asyncio.CancelledError):
        await auth.call(boom, asyncio.CancelledError)
    assert await counted(breakers, auth) == Counts(calls=3, failures=1, slow=1, streak=1, run=0)
    assert auth.snapshot.calls == {
        Outcome.SUCCESS: 1,
        Outcome.FAILURE: 1,
        Outcome.SLOW: 1,
        Outcome.IGNORED: 2,
        Outcome.CANCELLED: 1,
        Outcome.REJECTED: 0,
    }


@pytest.mark.parametrize("way", ["call", "decorated", "block"])
async def test_values_count_as_the_policy_says(breakers: Breakers, way: str) -> None:
    """A returned value may be a failure, slow or ignored, and reaches the caller unchanged; a block has no value."""
    auth = breakers.get("auth", policy(FailureCount(9), classify=Classify(result=lambda value: value)))
    outcomes = [None, Outcome.SUCCESS, Outcome.FAILURE, Outcome.SLOW, Outcome.IGNORED, Outcome.CANCELLED]
    for outcome in outcomes:
        if way == "block":
            async with auth:
                pass
        else:
            assert await (auth.call(fine, outcome) if way == "call" else auth(fine)(outcome)) is outcome
    expected = Counts(6) if way == "block" else Counts(calls=4, failures=1, slow=1, streak=1, run=0)
    assert await counted(breakers, auth) == expected


async def test_values_can_trip(breakers: Breakers) -> None:
    """Values that are failures open the circuit as exceptions do."""
    auth = breakers.get(
        "auth", policy(classify=Classify(result=lambda status: Outcome.FAILURE if status > 499 else None))
    )
    for status in (503, 200, 503, 503, 503):
        assert await auth.call(fine, status) == status
    with pytest.raises(CircuitOpenError):
        await auth.call(fine, 200)


@pytest.mark.parametrize("way", ["call", "decorated", "admitted"])
async def test_hooks_that_raise_change_nothing(breakers: Breakers, heard: RecordingListener, way: str) -> None:
    """A classification that raises is reported once, and the call counts as if it were not set."""

    def hook(_: object) -> Any:
        raise LookupError("hook")

    auth = breakers.get("auth", policy(FailureCount(9), classify=Classify(result=hook, retry_after=hook)))
    await _use(auth, way)
    assert await counted(breakers, auth) == Counts(2, 1, 0, 1, 1)
    assert [(report.kind, report.breaker) for report in heard.reports] == [("bad_hook", "auth")]
    assert "LookupError('hook')" in heard.reports[0].text


async def _use(auth: Breaker, way: str) -> None:
    """Make a call that succeeds and one that fails, and see that the caller gets what is the caller's."""
    if way == "admitted":
        (await auth.admit()).returned("value")
        (await auth.admit()).raised(Boom())
        return
    run: Callable[..., Awaitable[Any]] = auth.call if way == "call" else lambda function, *args: auth(function)(*args)
    assert await run(fine, "value") == "value"
    with pytest.raises(Boom):
        await run(boom)


@pytest.mark.parametrize(
    "junk", ["5", math.nan, math.inf, -math.inf, -1, 10**400, object(), True], ids=lambda junk: f"{junk!r:.10}"
)
@pytest.mark.parametrize("way", ["call", "decorated", "admitted"])
async def test_a_senseless_retry_after_is_none(breakers: Breakers, way: str, junk: Any) -> None:
    """A `retry_after` hook that returns no proper seconds changes no result, loses no outcome, lengthens nothing."""
    auth = breakers.get("auth", policy(ConsecutiveFailures(1), classify=Classify(retry_after=lambda _: junk)))
    await _use(auth, way)
    await breakers.flush()
    assert auth.state is State.OPEN
    assert 29 < auth.snapshot.remaining <= 60


@pytest.mark.parametrize("junk", ["5", math.nan, math.inf, 10**400], ids=lambda junk: f"{junk!r:.10}")
async def test_a_senseless_retry_after_reaches_no_server(redis_url: str, prefix: str, junk: Any) -> None:
    """Nor does it keep an outcome from Redis, or a replica from its server."""
    settings = policy(ConsecutiveFailures(1), classify=Classify(retry_after=lambda _: junk))
    async with Breakers(RedisStore.from_url(redis_url, prefix=prefix), store_budget=PATIENCE) as breakers:
        auth = breakers.get("auth", settings)
        await _use(auth, "call")
        async with asyncio.timeout(5):
            await breakers.flush()
        assert (auth.state, breakers.local) == (State.OPEN, False)
        assert 29 < auth.snapshot.remaining <= 60


@pytest.mark.parametrize(
    "junk", [True, 5, "broken", State.OPEN, Outcome.REJECTED, object()], ids=lambda junk: f"{junk!r:.10}"
)
async def test_a_senseless_outcome_is_reported(breakers: Breakers, heard: RecordingListener, junk: Any) -> None:
    """A `result` hook that returns no outcome is reported, and the call counts as the success that it was."""
    auth = breakers.get("auth", policy(classify=Classify(result=lambda _: junk)))
    assert await auth.call(fine, "value") == "value"
    assert await counted(breakers, auth) == Counts(1)
    assert [report.kind for report in heard.reports] == ["bad_hook"]


async def test_retry_after_lengthens_the_cooldown(breakers: Breakers) -> None:
    """What the dependency asks for lengthens the cooldown that follows, up to the maximum."""
    asked = {"first": 45.0, "second": 3600.0}
    for name, seconds in asked.items():
        auth = breakers.get(name, policy(classify=Classify(retry_after=lambda _, seconds=seconds: seconds)))
        await opened(breakers, auth)
        assert auth.snapshot.remaining == pytest.approx(min(seconds, 60.0), abs=1.0)


async def test_every_probes_retry_after_lengthens_the_cooldown(breakers: Breakers, clock: FakeClock) -> None:
    """What a failed probe's dependency asks for is kept, also if another probe ends the round."""
    asked: dict[str, float] = {}
    settings = {"recover": SuccessRatio(0.5, 2), "classify": Classify(retry_after=lambda _: asked.get("for"))}
    auth = breakers.get("auth", policy(**settings))
    await opened(breakers, auth)
    clock.advance(30.0)
    first, second = await auth.admit(), await auth.admit()
    for probe, seconds in ((first, 45.0), (second, 0.0)):
        asked["for"] = seconds
        probe.raised(Boom())
        await breakers.flush()
    assert auth.state is State.OPEN
    assert 44 < auth.snapshot.remaining <= 45


# -- slow and hanging calls


def slow(limit: float, minimum_calls: int = 2) -> SlowCallRate:
    """Trip when all calls take longer than the limit."""
    return SlowCallRate(1.0, limit, minimum_calls)


async def test_a_slow_success_counts_as_slow(breakers: Breakers, clock: FakeClock) -> None:
    """A call that took longer than the limit is slow, whichever way it was guarded."""
    auth = breakers.get("auth", policy(slow(5.0, 9)))

    async def late(error: type[Exception] | None = None) -> None:
        clock.advance(5.0)
        if error:
            raise error

    await auth.call(late)
    await auth(late)()
    async with auth:
        await late()
    with pytest.raises(Boom):
        await auth.call(late, Boom)
    await auth.call(fine)
    assert await counted(breakers, auth) == Counts(calls=5, failures=1, slow=4, streak=1, run=0)
    totals = auth.snapshot.calls
    assert (totals[Outcome.SUCCESS], totals[Outcome.SLOW], totals[Outcome.FAILURE]) == (1, 3, 1)


async def test_hanging_calls_count_while_they_hang(breakers: Breakers) -> None:
    """Calls that hang open the circuit before any of them has ended, and count once when they end."""
    auth, go_on = breakers.get("auth", policy(slow(0.03, 3))), asyncio.Event()
    hanging = [asyncio.create_task(auth.call(go_on.wait)) for _ in range(3)]
    await eventually(lambda: auth.state is State.OPEN, "the hanging calls to be counted")
    assert not any(call.done() for call in hanging)
    with pytest.raises(CircuitOpenError):
        await auth.call(fine)
    go_on.set()
    assert await asyncio.gather(*hanging) == [True, True, True]
    assert auth.snapshot.calls[Outcome.SLOW] == 3
    assert auth.snapshot.calls[Outcome.SUCCESS] == 0


async def test_a_quick_call_before_a_hanging_one_is_not_waited_for(breakers: Breakers) -> None:
    """Only what still runs is looked at, each call when it is due."""
    auth, go_on = breakers.get("auth", policy(slow(0.1, 9))), asyncio.Event()
    await auth.call(fine)
    await asyncio.sleep(0.05)  # the first look will come too early for the next call
    hanging = asyncio.create_task(auth.call(go_on.wait))
    await eventually(lambda: auth.snapshot.counts.slow == 1, "the hanging call to be counted")
    go_on.set()
    await hanging
    assert await counted(breakers, auth) == Counts(2, 0, 1)


@pytest.mark.parametrize(
    ("end", "counts", "outcome"),
    [
        (None, Counts(1, 0, 1), Outcome.SLOW),
        (Boom, Counts(1, 1, 1, 1, 1), Outcome.FAILURE),
        (Busy, Counts(1, 0, 1), Outcome.IGNORED),
        (asyncio.CancelledError, Counts(1, 0, 1), Outcome.CANCELLED),
    ],
)
async def test_how_a_hanging_call_ends(
    breakers: Breakers, end: type[BaseException] | None, counts: Counts, outcome: Outcome
) -> None:
    """A hanging call stays slow; if it fails in the end it is a failure too, and still one call."""
    trip = AnyOf(slow(0.02), ConsecutiveFailures(9))
    auth = breakers.get("auth", policy(trip, classify=Classify(ignored=(Busy,))))
    go_on = asyncio.Event()

    async def hang() -> None:
        await go_on.wait()
        if end:
            raise end

    hanging = asyncio.create_task(auth.call(hang))
    await eventually(lambda: auth.snapshot.counts.slow == 1, "the call to be counted")
    assert auth.snapshot.calls[Outcome.SUCCESS] == 0
    go_on.set()
    await asyncio.wait({hanging})
    assert hanging.cancelled() or type(hanging.exception()) is (end or type(None))
    assert await counted(breakers, auth) == counts
    assert {one: count for one, count in auth.snapshot.calls.items() if count} == {outcome: 1}


async def test_a_slow_probe_has_failed(breakers: Breakers, clock: FakeClock) -> None:
    """Where the policy knows slow, a probe that takes longer than the limit opens the circuit again."""
    auth = breakers.get("auth", policy(AnyOf(slow(2.0), ConsecutiveFailures(3))))
    await opened(breakers, auth)
    clock.advance(30.0)
    probe = await auth.admit()
    clock.advance(2.0)
    probe.end(Outcome.SUCCESS)
    await breakers.flush()
    assert auth.state is State.OPEN
    assert auth.snapshot.transition
    assert auth.snapshot.transition.reason == "probes_failed"


async def test_a_hanging_probe_fails_at_its_limit(breakers: Breakers) -> None:
    """A probe that hangs counts as failed at the probe limit, while it still hangs."""
    # The limit lies between two renewals, however late these are.
    settings = {"probe_lease": 0.3, "probe_limit": 0.35, "cooldown": Cooldown(0.01, 1, 30, 0)}
    auth = breakers.get("auth", policy(ConsecutiveFailures(1), **settings))
    await opened(breakers, auth, 1)
    await eventually(lambda: auth.snapshot.remaining == 0, "the cooldown to end")
    probe = await auth.admit()
    assert auth.state is State.HALF_OPEN
    await eventually(lambda: auth.state is State.OPEN, "the probe to fail")
    assert auth.snapshot.transition
    assert (auth.snapshot.transition.reason, auth.snapshot.transition.error) == ("probes_failed", "ProbeLimit")
    probe.end(Outcome.SUCCESS)
    await breakers.flush()
    assert auth.state is State.OPEN


# -- outcomes that cannot be told


class Mute(MemoryStore):
    """A store that takes its time over a batch, and then does not do it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.clock = clock

    async def record(self, batches: Any) -> Any:
        """Take two seconds for nothing."""
        self.clock.advance(2)
        raise StoreUnavailableError("record", f"{len(batches)} batches are too many")


async def test_what_is_not_delivered_in_time_is_dropped(clock: FakeClock, heard: RecordingListener) -> None:
    """Outcomes that could not be delivered within a second are dropped and reported, never counted late."""
    async with Breakers(Mute(clock), clock=clock, listeners=[heard]) as breakers:
        auth = breakers.get("auth", policy())
        await fail(auth, 2)
        await breakers.flush()
        await fail(auth, 1)
        await breakers.flush()
        assert (auth.state, auth.snapshot.counts.failures) == (State.CLOSED, 1)
    reports = {report.kind: report.text for report in heard.reports}
    assert reports.keys() == {"store_error", "local_mode", "lost_batch"}
    assert reports["lost_batch"].startswith("2 outcomes were not delivered")


async def test_reports_are_bounded(
    monkeypatch: pytest.MonkeyPatch, breakers: Breakers, heard: RecordingListener
) -> None:
    """What is reported once a minute is remembered for so many breakers and no more: memory is bounded."""
    monkeypatch.setattr("commontrip._listener.MOST_REPORTED", 3)

    class Broken:
        def trips(self, _: Counts) -> bool:
            raise LookupError("strategy")

    broken = policy(Broken())
    for name in ("a", "a", "b", "c", "d", "d", "e", "a"):
        await fail(breakers.get(name, broken))
    told = [report.breaker for report in heard.reports]
    assert told[:5] == ["a", "b", "c", "d", "e"]
    assert "a" in told[5:]


# -- for adapters


async def test_an_admitted_call_counts_once(breakers: Breakers) -> None:
    """Of several outcomes told of one call the first counts."""
    auth = breakers.get("auth", policy())
    for first in (
        lambda call: call.returned("value"),
        lambda call: call.raised(Boom()),
        lambda call: call.end(Outcome.IGNORED),
    ):
        call = await auth.admit()
        first(call)
        call.raised(Boom())
        call.returned("value")
        call.end(Outcome.FAILURE, "Boom")
    assert await counted(breakers, auth) == Counts(2, 1, 0, 1, 1)


async def test_a_forgotten_call_counts_as_nothing(breakers: Breakers) -> None:
    """A call whose outcome nobody tells is no outcome."""
    auth = breakers.get("auth", policy())
    await auth.admit()
    assert await counted(breakers, auth) == Counts()


async def test_an_admission_may_be_refused(breakers: Breakers) -> None:
    """An open circuit admits nobody, and says when to come back."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    with pytest.raises(CircuitOpenError) as caught:
        await auth.admit()
    assert caught.value.name == "auth"
    assert 29 < caught.value.retry_after <= 30


# -- the cycle


async def test_the_next_call_finds_it_open(breakers: Breakers) -> None:
    """Whose failure crossed the threshold finds the circuit open at once, before the store has said so."""
    auth = breakers.get("auth", policy())
    await auth.call(fine)
    await breakers.flush()
    await fail(auth, 3)
    assert (auth.state, auth.snapshot.provisional) == (State.CLOSED, True)
    with pytest.raises(CircuitOpenError):
        await auth.call(fine)
    await breakers.flush()
    assert (auth.state, auth.snapshot.provisional) == (State.OPEN, False)


async def test_closed_open_half_open_closed(breakers: Breakers, clock: FakeClock, heard: RecordingListener) -> None:
    """A circuit trips, waits out its cooldown, probes, and closes; each failed round opens it again for longer."""
    auth = breakers.get("auth", policy(cooldown=Cooldown(10, 2, 60, 0)))
    await opened(breakers, auth)
    for cooldown in (10.0, 20.0, 40.0):
        assert auth.snapshot.remaining == pytest.approx(cooldown, abs=1.0)
        clock.advance(cooldown)
        await fail(auth)
        await breakers.flush()
    clock.advance(60.0)
    assert await auth.call(fine) == "fine"
    assert auth.state is State.CLOSED
    states = [str(applied.transition.state) for applied in heard.transitions]
    assert states == ["OPEN", *3 * ["HALF_OPEN", "OPEN"], "HALF_OPEN", "CLOSED"]
    assert [probe for _, _, _, probe in heard.calls] == 3 * [False] + 4 * [True]
    assert {applied.made for applied in heard.transitions} == {True}
    await opened(breakers, auth)
    assert auth.snapshot.remaining == pytest.approx(10.0, abs=1.0)


async def test_a_strategy_of_ones_own(breakers: Breakers) -> None:
    """A class of one's own with `trips` opens the circuit."""

    class FirstError:
        def trips(self, counts: Counts) -> bool:
            return counts.failures > 0

    auth = breakers.get("auth", policy(FirstError()))
    await opened(breakers, auth, 1)


# -- orders


ANN = {"author": "ann", "reason": "tests the brakes"}


async def test_forced_open_refuses_everything(breakers: Breakers, clock: FakeClock) -> None:
    """Under FORCED_OPEN every call is refused until the order expires; then a probe decides."""
    auth = breakers.get("auth", policy())
    await auth.call(fine)
    snapshot = await auth.override(Override.FORCED_OPEN, **ANN, seconds=90)
    assert (snapshot.state, snapshot.override) == (State.OPEN, Override.FORCED_OPEN)
    with pytest.raises(CircuitOpenError) as caught:
        await auth.call(fine)
    assert 89 < caught.value.retry_after <= 90
    clock.advance(90)
    assert auth.snapshot.override is None
    assert await auth.call(fine) == "fine"
    assert (auth.state, auth.snapshot.calls[Outcome.REJECTED]) == (State.CLOSED, 1)


async def test_disabled_lets_everything_pass_and_counts_nothing(breakers: Breakers, clock: FakeClock) -> None:
    """Under DISABLED calls pass whatever they did before and do now; afterwards they count again."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    snapshot = await auth.override(Override.DISABLED, **ANN, seconds=60)
    assert (snapshot.state, snapshot.override) == (State.CLOSED, Override.DISABLED)
    await fail(auth, 9)
    await auth.call(fine)
    assert await counted(breakers, auth) == Counts()
    assert (auth.state, auth.snapshot.calls[Outcome.FAILURE], auth.snapshot.calls[Outcome.SUCCESS]) == (
        State.CLOSED,
        12,
        1,
    )
    clock.advance(60)
    assert auth.snapshot.override is None
    await fail(auth)  # the first one finds out that the order is over
    await opened(breakers, auth)


async def test_observe_only_reports(breakers: Breakers, heard: RecordingListener) -> None:
    """Under OBSERVE everything passes and counts, and what would have opened the circuit is reported."""
    auth = breakers.get("auth", policy())
    snapshot = await auth.override(Override.OBSERVE, **ANN)
    assert (snapshot.state, snapshot.override) == (State.CLOSED, Override.OBSERVE)
    await fail(auth, 5)
    await auth.call(fine)
    assert await counted(breakers, auth) == Counts(6, 5, 0, 5, 0)
    assert (auth.state, auth.snapshot.provisional) == (State.CLOSED, False)
    assert [(report.kind, report.breaker) for report in heard.reports] == [("would_open", "auth")]
    assert "would have opened: 5 failures" in heard.reports[0].text


async def test_an_order_survives_the_loss_of_its_keys(clock: FakeClock, heard: RecordingListener) -> None:
    """A replica that remembers an order tells it to a store that has forgotten everything."""
    store = MemoryStore(clock=clock)
    async with Breakers(store, clock=clock, listeners=[heard]) as breakers:
        auth = breakers.get("auth", policy())
        await auth.override(Override.DISABLED, **ANN, seconds=60)
        clock.advance(10)
        store.forget("auth")
        await auth.read()
        await breakers.flush()
        snapshot = await auth.read()
    assert (snapshot.state, snapshot.override) == (State.CLOSED, Override.DISABLED)
    assert snapshot.transition
    assert snapshot.transition.reason == "reasserted"
    assert snapshot.transition.override_until - clock() == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("order", "back"),
    [
        (Override.FORCED_OPEN, State.HALF_OPEN),
        (Override.DISABLED, State.CLOSED),
        (Override.OBSERVE, State.CLOSED),
        (None, State.CLOSED),
    ],
)
async def test_back_to_automatic(breakers: Breakers, order: Override | None, back: State) -> None:
    """Taking an order back lets probes decide after FORCED_OPEN, and closes everything else: a reset."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    if order:
        await auth.override(order, **ANN)
    snapshot = await auth.override(None, author="bob", reason="done")
    assert (snapshot.state, snapshot.override) == (back, None)
    assert await auth.call(fine) == "fine"
    assert auth.state is State.CLOSED
    assert (await counted(breakers, auth)).failures == 0


async def test_an_order_may_be_the_first_thing_that_happens(breakers: Breakers) -> None:
    """An operator can order a breaker that nobody has used yet."""
    auth = breakers.get("auth", policy())
    assert (await auth.override("FORCED_OPEN", **ANN)).state is State.OPEN
    [(made, note)] = await auth.history()
    assert (made.reason, made.override, note) == ("override", Override.FORCED_OPEN, "ann: tests the brakes")


async def test_an_order_wins_against_what_happens_meanwhile(breakers: Breakers) -> None:
    """An order that finds another epoch than it expected is given again, and holds."""
    auth = breakers.get("auth", policy())
    await auth.call(fine)
    orders = [auth.override(order, **ANN) for order in (Override.DISABLED, Override.FORCED_OPEN, Override.OBSERVE)]
    snapshots = await asyncio.gather(*orders)
    assert len({snapshot.epoch for snapshot in snapshots}) == 3
    assert len([made for made, note in await auth.history() if note]) == 3


_WRONG_ORDERS: list[tuple[str, str, Any]] = [
    ("author", "1 to 500 characters", ""),
    ("author", "1 to 500 characters", "  "),
    ("author", "1 to 500 characters", 501 * "a"),
    ("author", "1 to 500 characters", None),
    ("author", "1 to 500 characters", 5),
    ("reason", "1 to 500 characters", ""),
    ("reason", "1 to 500 characters", 501 * "a"),
    ("reason", "1 to 500 characters", None),
    ("seconds", "at least 1 and at most 604800", 0.5),
    ("seconds", "at least 1 and at most 604800", 604_801),
    ("seconds", "at least 1 and at most 604800", math.nan),
    ("seconds", "at least 1 and at most 604800", "60"),
    ("seconds", "at least 1 and at most 604800", None),
    ("order", "FORCED_OPEN.*DISABLED.*OBSERVE", "OPEN"),
    ("order", "FORCED_OPEN.*DISABLED.*OBSERVE", 5),
]


@pytest.mark.parametrize(
    ("argument", "bounds", "wrong"), _WRONG_ORDERS, ids=[f"{name}={wrong!r:.12}" for name, _, wrong in _WRONG_ORDERS]
)
async def test_wrong_orders(breakers: Breakers, argument: str, bounds: str, wrong: Any) -> None:
    """A wrong order is a ValueError that names the argument, its value and its range; nothing is ordered."""
    auth = breakers.get("auth")
    with pytest.raises(ValueError, match=rf"{argument} must be .*{bounds}") as caught:
        await auth.override(**{"order": Override.OBSERVE, **ANN, argument: wrong})
    assert repr(wrong) in str(caught.value)
    assert await auth.history() == []


async def test_nothing_else_is_wrong_when_an_order_is_taken_back(breakers: Breakers) -> None:
    """Back to automatic needs no seconds."""
    snapshot = await breakers.get("auth").override(None, **ANN, seconds=math.nan)
    assert snapshot.state is State.CLOSED


# -- looking


async def test_a_breaker_that_nobody_has_used(breakers: Breakers) -> None:
    """Before its first use a breaker is CLOSED, and knows nothing."""
    auth = breakers.get("auth")
    snapshot = auth.snapshot
    assert (auth.state, snapshot.state, snapshot.name) == (State.CLOSED, State.CLOSED, "auth")
    assert (snapshot.epoch, snapshot.transition, snapshot.override) == ("", None, None)
    assert (snapshot.counts, snapshot.remaining, snapshot.probes_in_flight) == (Counts(), 0.0, 0)
    assert (snapshot.provisional, snapshot.local) == (False, False)
    assert snapshot.calls == dict.fromkeys(Outcome, 0)
    assert repr(auth) == "<Breaker 'auth' CLOSED>"


async def test_a_snapshot_holds_what_is_not_sent_yet(breakers: Breakers) -> None:
    """A snapshot counts what the store has said and what this replica has not sent yet."""
    auth = breakers.get("auth", policy(FailureCount(9)))
    await fail(auth, 2)
    await breakers.flush()
    await fail(auth)
    assert auth.snapshot.counts == Counts(3, 3, 0, 3, 3)
    assert (await auth.read()).counts == Counts(2, 2, 0, 2, 2)


async def test_a_snapshot_of_an_open_circuit(breakers: Breakers, clock: FakeClock) -> None:
    """While OPEN a snapshot says what made it so, and how long it lasts."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    clock.advance(10.0)
    snapshot = auth.snapshot
    assert snapshot.transition
    assert (snapshot.transition.reason, snapshot.transition.failures, snapshot.transition.calls) == ("tripped", 3, 3)
    assert (snapshot.transition.error, snapshot.transition.replica) == ("Boom", "r1")
    assert snapshot.epoch == str(snapshot.transition.epoch)
    assert 19 < snapshot.remaining <= 20
    clock.advance(30.0)
    assert auth.snapshot.remaining == 0.0


async def test_counts_age_in_a_snapshot(breakers: Breakers, clock: FakeClock) -> None:
    """What the store said a window ago is not counted any more."""
    auth = breakers.get("auth", policy())
    await fail(auth, 2)
    await breakers.flush()
    assert auth.snapshot.counts.failures == 2
    clock.advance(61)
    assert auth.snapshot.counts == Counts()


async def test_a_read_asks_the_store(clock: FakeClock, breakers: Breakers) -> None:
    """A read tells what the fleet has counted, and how many probes are under way."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    clock.advance(30.0)
    probe = await auth.admit()
    assert ((await auth.read()).probes_in_flight, auth.snapshot.probes_in_flight) == (1, 0)
    probe.end(Outcome.SUCCESS)
    await breakers.flush()
    assert ((await auth.read()).probes_in_flight, auth.state) == (0, State.CLOSED)


async def test_history_tells_the_last_transitions(breakers: Breakers) -> None:
    """History tells the newest first, as many as asked for, with an operator's notes."""
    auth = breakers.get("auth", policy())
    await opened(breakers, auth)
    await auth.override(None, **ANN)
    told = [(made.state, made.reason, note) for made, note in await auth.history()]
    assert told == [
        (State.CLOSED, "override", "ann: tests the brakes"),
        (State.OPEN, "tripped", ""),
        (State.CLOSED, "seed", ""),
    ]
    assert len(await auth.history(2)) == 2


@pytest.mark.parametrize("count", [0, -1, 100_001, 2.5, "9", None, True])
async def test_a_wrong_count_of_history(breakers: Breakers, count: Any) -> None:
    """A senseless count is a ValueError that names it and its range."""
    with pytest.raises(ValueError, match=rf"count must be a whole number from 1 to 100000, not {count!r}"):
        await breakers.get("auth").history(count)
