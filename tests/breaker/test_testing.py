"""`commontrip.testing`: how users test their own services, without a server and without waiting."""

import time
from collections.abc import AsyncIterator

import pytest

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    MemoryStore,
    Outcome,
    Policy,
    State,
    SuccessRatio,
)
from commontrip.testing import FakeClock, RecordingListener
from tests.support.waiting import PATIENCE

POLICY = Policy(trip=ConsecutiveFailures(2), recover=SuccessRatio(1, probes=1), cooldown=Cooldown(30, jitter=0))


class Service:
    """A user's service: asks something that can be down, through a breaker."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.down = False
        self.asked = 0

    async def answer(self) -> str:
        """Ask; say so when it could not be asked."""
        try:
            return await self.breaker.call(self._ask)
        except ConnectionError:
            return "failed"
        except CircuitOpenError:
            return "refused"

    async def _ask(self) -> str:
        self.asked += 1
        if self.down:
            raise ConnectionError("down")
        return "fine"


@pytest.fixture
def clock() -> FakeClock:
    """A clock to move."""
    return FakeClock()


@pytest.fixture
def heard() -> RecordingListener:
    """What the breakers tell."""
    return RecordingListener()


@pytest.fixture
async def breakers(clock: FakeClock, heard: RecordingListener) -> AsyncIterator[Breakers]:
    """Breakers on a store in memory."""
    store = MemoryStore(clock=clock)
    async with Breakers(store, clock=clock, listeners=[heard], store_budget=PATIENCE) as started:
        yield started


@pytest.fixture
def service(breakers: Breakers) -> Service:
    """The service under test."""
    return Service(breakers.get("auth", POLICY))


async def test_a_user_tests_their_own_service(service: Service, breakers: Breakers, clock: FakeClock) -> None:
    """Trip, let the cooldown pass, probe, closed: a few lines, and nobody waits."""
    service.down = True
    assert [await service.answer() for _ in range(3)] == ["failed", "failed", "refused"]
    await breakers.flush()
    service.down = False
    clock.advance(30)
    assert await service.answer() == "fine"
    assert service.breaker.state == State.CLOSED


async def test_the_cooldown_is_the_clocks(service: Service, breakers: Breakers, clock: FakeClock) -> None:
    """Calls are refused until the clock, and not the wall, has passed the cooldown."""
    service.down = True
    for _ in range(2):
        await service.answer()
    await breakers.flush()
    service.down = False
    clock.advance(20)
    assert await service.answer() == "refused"
    clock.advance(10)
    assert await service.answer() == "fine"
    assert service.asked == 3


async def test_the_recording_listener_keeps_everything_in_order(
    service: Service, breakers: Breakers, clock: FakeClock, heard: RecordingListener
) -> None:
    """Transitions, calls that were not plain successes, and reports are kept as they came."""
    await service.answer()
    service.down = True
    for _ in range(3):
        await service.answer()
    await heard.next(State.OPEN)
    await breakers.flush()
    clock.advance(30)
    await service.answer()
    assert (await heard.next(State.OPEN)).transition.reason == "probes_failed"
    assert [applied.transition.state for applied in heard.transitions] == ["OPEN", "HALF_OPEN", "OPEN"]
    failed, refused = ("auth", "CLOSED", Outcome.FAILURE, False), Outcome.REJECTED
    assert heard.calls[:2] == [failed, failed]
    assert heard.calls[2][2] == refused
    assert heard.calls[-1] == ("auth", "HALF_OPEN", Outcome.FAILURE, True)
    assert heard.reports == []


async def test_reports_are_kept(breakers: Breakers, heard: RecordingListener) -> None:
    """A report, such as a strategy that raises, is kept."""

    class Broken:
        def trips(self, counts: object) -> bool:
            raise LookupError(counts)

    service = Service(breakers.get("auth", Policy(trip=Broken())))
    service.down = True
    await service.answer()
    assert [(report.kind, report.breaker) for report in heard.reports][:1] == [("bad_hook", "auth")]


async def test_waiting_for_a_transition_ends(service: Service, heard: RecordingListener) -> None:
    """A transition that does not come is a `TimeoutError`; one that has been returned is not returned again."""
    service.down = True
    for _ in range(2):
        await service.answer()
    await heard.next(State.OPEN)
    with pytest.raises(TimeoutError):
        await heard.next(State.OPEN, within=0.01)


def test_the_clock_runs_and_jumps_but_never_back(clock: FakeClock) -> None:
    """The clock shows today, moves with real time, jumps ahead exactly, and refuses to go back."""
    assert abs(clock() - time.time()) < 5
    before, real = clock(), time.monotonic()
    clock.advance(3600)
    assert 3600 <= clock() - before <= 3600 + (time.monotonic() - real) + 1e-3
    for wrong in (-1, float("nan"), "30"):
        with pytest.raises(ValueError, match="seconds must be a number at least 0, not"):
            clock.advance(wrong)  # type: ignore[arg-type]
