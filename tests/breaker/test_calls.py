"""Calls: what is guarded, what is neutral, and that nothing is held while a call runs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

import pytest

from commontrip import (
    Applied,
    Breaker,
    Breakers,
    CircuitOpenError,
    Classify,
    Counts,
    FailureCount,
    Listener,
    Outcome,
    Report,
    State,
)
from commontrip.redis import RedisStore
from tests.breaker.members import Boom, Join, Member, joins, policy
from tests.support.waiting import PATIENCE, eventually


class Busy(Exception):  # noqa: N818 - what the dependency did
    """What the policy ignores."""


class Panic(BaseException):
    """What is not an Exception."""


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at the third failure, for a tenth of a second, and has one probe."""
    return joins(redis_url, prefix, policy(FailureCount(3), cooldown=0.1))


async def counted(member: Member) -> Counts:
    """Return what the store has counted, once all is sent."""
    await member.breakers.flush()
    return (await member.breaker.read()).counts


async def half_open(member: Member) -> None:
    """Trip, and wait out the cooldown."""
    await member.fail(3)
    await member.sees(State.OPEN)
    await eventually(lambda: not member.breaker.snapshot.remaining, "the cooldown to end")


async def cancelled(breaker: Breaker) -> None:
    """Cancel a call while it runs."""
    running = asyncio.Event()

    async def hang() -> None:
        running.set()
        await asyncio.sleep(9)

    call = asyncio.create_task(breaker.call(hang))
    await running.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_t07_a_cancelled_call_counts_for_nothing(join: Join) -> None:
    """A cancelled call is no outcome; a cancelled probe gives its place back and decides nothing."""
    async with join() as a, join() as b:
        await a.succeed()
        for _ in range(5):
            await cancelled(a.breaker)
        counts = await counted(a)
        assert (counts.calls, counts.failures) == (1, 0)

        await half_open(a)
        await cancelled(a.breaker)
        await eventually(lambda: a.store.count("settle") == 1, "the place to be given back")
        seen = await b.breaker.read()
        assert (seen.state, seen.probes_in_flight) == (State.HALF_OPEN, 0)
        at = time.monotonic()
        await b.succeed()
        print(f"T7: the next probe was admitted {(time.monotonic() - at) * 1000:.0f} ms later")
        await a.sees(State.CLOSED)
        assert a.breaker.snapshot.calls[Outcome.CANCELLED] == 6


async def test_t08_what_says_nothing_of_the_dependency_is_neutral(redis_url: str, prefix: str) -> None:
    """An ignored error, and what is no Exception, passes through and neither counts nor decides, as a probe too."""
    ignores = policy(FailureCount(3), probes=2, cooldown=0.1, classify=Classify(ignored=(Busy,)))
    async with joins(redis_url, prefix, ignores)() as a:
        await a.succeed()
        for neutral in _NEUTRAL:
            await _raises(a.breaker, neutral)
        counts = await counted(a)
        assert (counts.calls, counts.failures) == (1, 0)

        await half_open(a)
        for neutral in _NEUTRAL:
            await _raises(a.breaker, neutral)
        await eventually(lambda: a.store.count("settle") == len(_NEUTRAL), "the places to be free")
        await a.succeed()
        seen = await a.breaker.read()
        print(f"T8: {len(_NEUTRAL)} neutral probes and 1 of 2 that must succeed: still {seen.state}")
        assert (seen.state, seen.probes_in_flight) == (State.HALF_OPEN, 0)
        await a.succeed()
        await a.sees(State.CLOSED)


_NEUTRAL = (Busy, Panic, KeyboardInterrupt, SystemExit, GeneratorExit)


async def _raises(breaker: Breaker, error: type[BaseException]) -> None:
    thrown = error()
    with pytest.raises(error) as caught:
        async with breaker:
            raise thrown
    assert caught.value is thrown


class Rude(Listener):
    """Raises whatever it is told."""

    times_calls = True

    def __init__(self, error: type[BaseException]) -> None:
        """Note what it is told all the same."""
        self.told: list[str] = []
        self._error = error

    def on_transition(self, applied: Applied) -> None:
        """Raise."""
        self._raise("on_transition", applied)

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:
        """Raise."""
        self._raise("on_call", breaker, state, outcome, probe)

    def on_report(self, report: Report) -> None:
        """Raise."""
        self._raise("on_report", report)

    def on_ended(self, breaker: str, outcome: Outcome, seconds: float) -> None:
        """Raise."""
        self._raise("on_ended", breaker, outcome, seconds)

    def on_store(self, operation: str, seconds: float, error: str) -> None:
        """Raise."""
        self._raise("on_store", operation, seconds, error)

    def cause(self) -> str:
        """Raise."""
        self._raise("cause")

    def _raise(self, method: str, *_: object) -> NoReturn:
        self.told.append(method)
        raise self._error(method)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_t17_a_raising_listener_changes_nothing(
    server: Any, prefix: str, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """Listeners that raise at whatever they hear change neither state nor results; it is logged once a method."""
    rude = Rude(error)
    opens = policy(FailureCount(3), cooldown=0.1)
    store = RedisStore.from_url(server.url, prefix=prefix)
    async with Breakers(store, listeners=[rude], store_budget=PATIENCE) as breakers:
        breaker = breakers.get("auth", opens)
        assert await breaker.call(_answer) == 42
        server.cli("SET", f"{prefix}:auth:state", "nonsense")
        for _ in range(3):
            await _raises(breaker, Boom)
        await eventually(lambda: breaker.state == State.OPEN, "the circuit to open")
        with pytest.raises(CircuitOpenError):
            await breaker.call(_answer)
        await eventually(lambda: not breaker.snapshot.remaining, "the cooldown to end")
        assert await breaker.call(_answer) == 42
        await eventually(lambda: breaker.state == State.CLOSED, "the circuit to close")
        states = [made.state for made, _ in await breaker.history()]
    print(f"T17: {len(rude.told)} times raised, by {len(set(rude.told))} methods")
    assert states == ["CLOSED", "HALF_OPEN", "OPEN", "CLOSED"]
    assert set(rude.told) == {"on_transition", "on_call", "on_ended", "on_report", "on_store", "cause"}
    assert len([one for one in caplog.records if one.exc_info]) == len(set(rude.told))


async def _answer() -> int:
    return 42


def _function() -> int:
    return 42


def _generator() -> Iterator[int]:
    yield 42


async def _async_generator() -> AsyncIterator[int]:
    yield 42


class _Callable:
    async def __call__(self) -> int:
        return 42


async def test_t18_what_cannot_be_guarded_is_refused(join: Join) -> None:
    """Whatever would only look guarded is a TypeError at the decorator, not at the first call."""
    unguardable: list[Callable[..., Any]] = [
        _function,
        _generator,
        _async_generator,
        contextlib.contextmanager(_generator),
        contextlib.asynccontextmanager(_async_generator),
        _Callable(),
        lambda: _answer(),  # noqa: PLW0108 - a function that returns a coroutine is none
    ]
    async with join() as a:
        for function in unguardable:
            with pytest.raises(TypeError, match="guards coroutine functions"):
                a.breaker(function)
    print(f"T18: {len(unguardable)} kinds of callable refused")


Way = Callable[[Breaker, Callable[[], Any]], Any]


async def _decorated(breaker: Breaker, work: Callable[[], Any]) -> None:
    await breaker(work)()


async def _method(breaker: Breaker, work: Callable[[], Any]) -> None:
    class Service:
        @breaker
        async def ask(self) -> None:
            await work()

    await Service().ask()


async def _called(breaker: Breaker, work: Callable[[], Any]) -> None:
    await breaker.call(work)


async def _with(breaker: Breaker, work: Callable[[], Any]) -> None:
    async with breaker:
        await work()


async def _in_a_generator(breaker: Breaker, work: Callable[[], Any]) -> None:
    async def items() -> AsyncIterator[int]:
        async with breaker:
            yield 1
            await work()

    async for _ in items():
        pass


async def _in_a_context_manager(breaker: Breaker, work: Callable[[], Any]) -> None:
    @contextlib.asynccontextmanager
    async def session() -> AsyncIterator[None]:
        async with breaker:
            yield

    async with session():
        await work()


async def test_t18_every_way_in_is_guarded(redis_url: str, prefix: str) -> None:
    """However it is guarded, a failure passes and counts once, and no code runs while the circuit is open."""
    for way in _WAYS:
        async with joins(redis_url, f"{prefix}{way.__name__}", policy(FailureCount(3)))() as a:
            await _guards(a, way)
    print(f"T18: {len(_WAYS)} ways in guard alike")


_WAYS = (_decorated, _method, _called, _with, _in_a_generator, _in_a_context_manager)


async def _guards(member: Member, way: Way) -> None:
    ran: list[str] = []
    boom = Boom()

    async def fail() -> NoReturn:
        ran.append("fail")
        raise boom

    async def succeed() -> None:
        ran.append("succeed")

    await way(member.breaker, succeed)
    for _ in range(2):
        with pytest.raises(Boom) as caught:
            await way(member.breaker, fail)
        assert caught.value is boom
    counts = await counted(member)
    assert (counts.calls, counts.failures) == (3, 2)
    with pytest.raises(Boom):
        await way(member.breaker, fail)
    await member.sees(State.OPEN)
    with pytest.raises(CircuitOpenError):
        await way(member.breaker, succeed)
    assert ran == ["succeed", "fail", "fail", "fail"]


async def test_t18_one_object_keeps_its_uses_apart(redis_url: str, prefix: str) -> None:
    """Nested, gathered and interleaved uses of one `async with` object each count their own outcome (race 38)."""
    join = joins(redis_url, prefix, policy(FailureCount(1000)))
    async with join() as a:
        breaker = a.breaker
        async with breaker:
            with pytest.raises(Boom):
                await _inside(breaker, fails=True)
        nested = await counted(a)
        await asyncio.gather(
            *(_inside(breaker, fails=number % 3 == 0) for number in range(60)),
            return_exceptions=True,
        )
        gathered = await counted(a)
        first, second = _session(breaker), _session(breaker)
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        assert not await second.__aexit__(Boom, Boom(), None)
        crossed = await counted(a)
    seen = [(counts.calls, counts.failures) for counts in (nested, gathered, crossed)]
    print(f"T18: calls and failures: nested {seen[0]}, gathered {seen[1]}, crossed {seen[2]}")
    assert seen == [(2, 1), (62, 21), (64, 22)]


async def _inside(breaker: Breaker, *, fails: bool) -> None:
    async with breaker:
        await asyncio.sleep(0.001)
        if fails:
            raise Boom


@contextlib.asynccontextmanager
async def _session(breaker: Breaker) -> AsyncIterator[None]:
    async with breaker:
        yield


async def test_t19_nothing_is_held_while_calls_run(join: Join) -> None:
    """A hundred calls of 100 ms are all inside the guarded function at once, whichever way they are guarded."""
    everybody = asyncio.Barrier(100)

    async def call() -> None:
        async with asyncio.timeout(5):
            await everybody.wait()
        await asyncio.sleep(0.1)

    async with join() as a:
        await a.succeed()
        guarded = a.breaker(call)
        at = time.monotonic()
        await asyncio.gather(
            *(_with(a.breaker, call) for _ in range(34)),
            *(a.breaker.call(call) for _ in range(33)),
            *(guarded() for _ in range(33)),
        )
        print(f"T19: 100 calls of 100 ms took {(time.monotonic() - at) * 1000:.0f} ms together")
        assert (await counted(a)).calls == 101
