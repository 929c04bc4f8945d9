"""Races around probes: a place is held by one caller, given back once, and counted once."""

import asyncio
from typing import Any

import pytest

from commontrip import CircuitOpenError, ConsecutiveFailures, Outcome, State
from commontrip._calls import Call
from tests.breaker.members import Join, Member, joins, policy
from tests.support.waiting import eventually

LEASE = 0.3


def fleet(url: str, prefix: str, **settings: Any) -> Join:
    """Members of a fleet that opens at one failure, for a moment."""
    given: dict[str, Any] = {"probes": 1, "cooldown": 0.05, "probe_lease": LEASE} | settings
    return joins(url, prefix, policy(ConsecutiveFailures(1), **given))


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """A fleet with one place among its probes."""
    return fleet(redis_url, prefix)


async def probe(member: Member) -> Call:
    """Call until one is admitted as a probe."""
    async with asyncio.timeout(10):
        while True:
            try:
                call = await member.breaker.admit()
            except CircuitOpenError as refusal:
                await asyncio.sleep(min(0.02, refusal.retry_after))
                continue
            assert call.probe
            return call


def answers(member: Member, operation: str) -> list[str]:
    """Return what the store answered to these requests."""
    return [view.status for answered, view in member.store.answered if answered == operation]


async def test_race_06_a_cancelled_callers_place_goes_to_the_next(join: Join) -> None:
    """Race 6: who is cancelled while a place is asked for leaves it to the next caller, who asks nobody."""
    async with join() as a:
        await a.half_open()
        held = a.store.hold("reply", "lease")
        caller = asyncio.create_task(a.breaker.admit())
        await held.caught()
        caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled()
        await held.release()
        call = await a.breaker.admit()
        assert call.probe
        assert a.store.count("lease") == 1
        call.end(Outcome.SUCCESS)
        await a.sees(State.CLOSED)


async def test_race_06_a_place_that_nobody_wants_goes_to_another_replica(join: Join) -> None:
    """Race 6: without a next caller the place is given back before its lease ends, and another replica has it."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        held = a.store.hold("reply", "lease")
        caller = asyncio.create_task(a.breaker.admit())
        await held.caught()
        caller.cancel()
        await held.release()
        await probe(b)
        assert answers(a, "settle") == ["counted"]


async def test_race_07_a_late_grant_serves_the_next_caller(join: Join) -> None:
    """Race 7: a grant that comes after the store budget is kept for the next caller, who asks nobody."""
    async with join() as a:
        await a.half_open()
        a.hurry()
        held = a.store.hold("reply", "lease")
        await a.refused()
        await held.release()
        call = await a.breaker.admit()
        assert call.probe
        assert a.store.count("lease") == 1


async def test_race_08_an_expired_lease_settles_nothing(redis_url: str, prefix: str) -> None:
    """Race 8: a probe whose place has gone to another is not counted, so that no more than planned settle."""
    join = fleet(redis_url, prefix, probes=2)
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        lost, first = await probe(a), await probe(b)
        a.store.cut = True
        second = await probe(b)
        a.store.cut = False
        lost.end(Outcome.FAILURE)
        await eventually(lambda: answers(a, "settle") == ["gone"], "the settlement to be refused")
        first.end(Outcome.SUCCESS)
        second.end(Outcome.SUCCESS)
        await b.sees(State.CLOSED)
        assert (b.breaker.snapshot.transition.calls, b.breaker.snapshot.transition.failures) == (2, 0)


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE])
async def test_race_09_a_repeated_settlement_ends_the_round_once(join: Join, outcome: Outcome) -> None:
    """Race 9: a settlement that ended the round and is repeated is answered alike, and ends nothing again."""
    async with join() as a:
        await a.half_open()
        call = await probe(a)
        a.store.lose_replies(2, of="settle")
        call.end(outcome)
        await eventually(lambda: answers(a, "settle") == ["counted"] * 3, "the settlement to be repeated")
        history = await a.breaker.history()
        assert len(history) == 4
        assert a.made.count(str(history[0][0].epoch)) == 1


async def test_race_09_a_repeated_settlement_counts_once(redis_url: str, prefix: str) -> None:
    """Race 9: one that did not end the round counts once, too."""
    join = fleet(redis_url, prefix, probes=2)
    async with join() as a:
        await a.half_open()
        first = await probe(a)
        a.store.lose_replies(2, of="settle")
        first.end(Outcome.SUCCESS)
        await eventually(lambda: answers(a, "settle") == ["counted", "gone", "gone"], "the settlement to be repeated")
        assert a.breaker.state == State.HALF_OPEN
        second = await probe(a)
        second.end(Outcome.SUCCESS)
        await a.sees(State.CLOSED)
        assert a.breaker.snapshot.transition.calls == 2
