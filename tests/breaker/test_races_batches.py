"""Races around batches: every outcome counts once, in its own epoch, or not at all."""

import asyncio

import pytest

from commontrip import ConsecutiveFailures, Counts, FailureCount, Outcome, Override, State
from tests.breaker.members import Join, Member, joins, policy
from tests.support.unreliable_store import Clock
from tests.support.waiting import eventually

INTERVAL = 0.1
"""Seconds between two batches of one replica."""


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that does not trip."""
    return joins(redis_url, prefix, policy(FailureCount(1_000_000)))


async def counted(member: Member) -> Counts:
    """Return what the store has counted."""
    return (await member.breaker.read()).counts


def numbers(member: Member) -> list[int]:
    """Return the numbers of the batches that were sent."""
    return [batches[0].number for asked, batches in member.store.asked if asked == "record"]


async def quiet(member: Member) -> None:
    """Wait until the replica has sent by itself what it has counted."""
    ledger = member.breaker._circuit.ledger
    await eventually(lambda: not ledger.waiting and member.store.silence("record") > 2 * INTERVAL, "the last batch")


async def test_race_01_a_repeated_batchs_reply_clears_only_that_batch(join: Join) -> None:
    """Race 1: outcomes that come while a batch is repeated are not cleared by its answer."""
    async with join() as a:
        a.store.lose_replies(of="record")
        again = a.store.hold("reply", "record")
        await a.succeed()
        await again.caught()
        await a.succeed(3)
        await again.release()
        await quiet(a)
        assert numbers(a) == [1, 1, 2]
        assert (await counted(a)).calls == 4


async def test_race_02_what_comes_during_a_repetition_leaves_by_itself(join: Join) -> None:
    """Race 2: outcomes that come while a batch is repeated leave by themselves, without a further call."""
    async with join() as a:
        a.store.lose_requests(of="record")
        again = a.store.hold("request", "record")
        await a.succeed()
        await again.caught()
        next_one = a.store.hold("request", "record")
        await a.fail(2)
        await again.release()
        await next_one.caught()
        await next_one.release()
        assert await counted(a) == Counts(calls=3, failures=2, streak=2, run=2)


async def test_race_02_losses_lose_and_double_nothing(join: Join) -> None:
    """Races 1 and 2: with two of three requests or replies lost every outcome is counted once."""
    async with join() as a:
        for _ in range(4):
            a.store.lose_requests(of="record")
            a.store.lose_replies(of="record")
            a.store.repeat(0.02, of="record")
        for turn in range(30):
            await (a.fail() if turn % 3 else a.succeed(2))
            await asyncio.sleep(INTERVAL / 5)
        await quiet(a)
        assert a.reported("lost_batch") == 0
        seen = await counted(a)
        assert (seen.calls, seen.failures) == (40, 20)


async def test_race_03_one_flush_at_a_time(join: Join) -> None:
    """Race 3: whatever wants to send while a batch is under way waits for it and joins the next."""
    crossing = policy(ConsecutiveFailures(2))
    async with join(policy=crossing) as a:
        held = a.store.hold("reply", "record")
        await a.succeed()
        await held.caught()
        await a.fail(2)
        asked_for = [asyncio.create_task(a.breakers.flush()) for _ in range(3)]
        await asyncio.sleep(2 * INTERVAL)
        assert numbers(a) == [1]
        await held.release()
        await asyncio.gather(*asked_for)
        await a.sees(State.OPEN)
        assert numbers(a) == [1, 2]


async def test_race_04_a_closed_replica_sends_nothing(join: Join) -> None:
    """Race 4: nothing is sent after `close`, neither by timers nor by calls that end afterwards."""
    async with join() as a:
        await a.succeed()
        running = [await a.breaker.admit() for _ in range(2)]
        late = asyncio.create_task(a.succeed())
    sent = len(a.store.asked)
    running[0].end(Outcome.SUCCESS)
    running[1].end(Outcome.FAILURE, "Boom")
    await late
    await asyncio.sleep(2 * INTERVAL)
    assert a.store.asked[sent:] == []


async def test_race_04_a_place_that_nobody_took_is_given_back(redis_url: str, prefix: str) -> None:
    """Race 4: a replica that leaves gives back the place that it keeps for its next caller."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), cooldown=0.05, probe_lease=9))
    async with join() as a:
        await a.half_open()
        a.hurry()
        held = a.store.hold("reply", "lease")
        await a.refused()
        await held.release()
    async with join() as b:
        await b.succeed()
        await b.sees(State.CLOSED)


async def test_race_24_a_batch_of_an_earlier_epoch_is_not_counted(join: Join) -> None:
    """Race 24: outcomes that arrive after the circuit has opened and closed again count nowhere."""
    async with join() as a, join() as b:
        await b.succeed()
        held = a.store.hold("request", "record")
        await a.succeed(5)
        await a.fail()
        await held.caught()
        for order in (Override.FORCED_OPEN, None, Override.OBSERVE, None):
            await b.breaker.override(order, author="test", reason="race 24")
        await a.sees(State.CLOSED)
        await eventually(lambda: a.epoch == b.epoch, "the epoch to be known")
        await held.release()
        assert await counted(b) == Counts()
        await a.succeed()
        await quiet(a)
        assert (await counted(b)).calls == 1


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_jump_of_the_stores_clock_loses_no_batch(redis_url: str, prefix: str, hours: int) -> None:
    """What is delivered in time counts, although the replica does not know yet that the store's clock is another."""
    clock = Clock()
    join = joins(redis_url, prefix, policy(FailureCount(1_000_000)))
    async with join(clock=clock) as a:
        await a.succeed()
        await a.breakers.flush()
        clock.shift += 3600 * hours
        await a.fail()
        await a.breakers.flush()
        assert (await counted(a)).failures == 1


async def test_a_restarted_replica_of_the_same_name_counts(join: Join) -> None:
    """Outcomes of a process that takes the name of the one before it are not taken for repetitions."""
    async with join(replica="pod-0") as a:
        await a.fail()
        await a.breakers.flush()
    async with join(replica="pod-0") as a:
        await a.fail()
        await a.breakers.flush()
        assert (await counted(a)).failures == 2


async def test_an_old_answer_takes_no_counts_back(redis_url: str, prefix: str) -> None:
    """A read that is answered after a later batch does not make the replica forget what it knows."""
    join = joins(redis_url, prefix, policy(FailureCount(3)))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        held = a.store.hold("reply", "read")
        reading = asyncio.create_task(a.breaker.read())
        await held.caught()
        await a.fail(2)
        await a.breakers.flush()
        await held.release()
        await reading
        await a.fail()
        await a.refused()


async def test_a_cancelled_read_cancels_nobody_else(join: Join) -> None:
    """Two who read at once share the question, not their fate."""
    async with join() as a:
        await a.succeed()
        held = a.store.hold("reply", "read")
        one, two = asyncio.create_task(a.breaker.read()), asyncio.create_task(a.breaker.read())
        await held.caught()
        one.cancel()
        await asyncio.wait({one})
        await held.release()
        assert (await two).state == State.CLOSED


async def test_race_26_a_success_hides_no_streak(redis_url: str, prefix: str) -> None:
    """Race 26: who counted the streak that trips dies before deciding; after a success somebody else still decides."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(3)))
    async with join() as a, join() as b:
        await b.succeed()
        await b.breakers.flush()
        held = a.store.hold("reply", "record")
        await a.fail(3)
        await held.caught()
        a.store.cut = True
        await b.succeed()
        await b.sees(State.OPEN)
        made = b.breaker.snapshot.transition
        assert (b.made, made.failures, made.calls) == ([b.epoch], 3, 5)
