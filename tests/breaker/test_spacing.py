"""How seldom, how soon, and after what a replica talks to the store."""

import asyncio

from commontrip import ConsecutiveFailures, State
from commontrip.redis import RedisStore
from tests.breaker.members import joins, policy
from tests.support.waiting import eventually


async def crowd(redis_url: str, prefix: str) -> None:
    """Let a hundred others be in the fleet: at ten commands a second a replica has a batch in 14 s."""
    store = RedisStore.from_url(redis_url, prefix=prefix)
    for number in range(100):
        await store.presence(f"other-{number}", 60)
    await store.aclose()


async def test_a_large_fleet_spaces_out_its_batches(redis_url: str, prefix: str) -> None:
    """However many replicas there are, all together stay under the set rate: each sends the more seldom."""
    await crowd(redis_url, prefix)
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join(fleet_rate=10) as a:
        await eventually(lambda: any(what == "presence" for what, _ in a.store.answered), "the fleet's size")
        for _ in range(50):
            await a.succeed()
            await asyncio.sleep(0.02)
        assert a.store.count("record") == 0


async def test_what_crosses_the_threshold_waits_for_no_batch(redis_url: str, prefix: str) -> None:
    """What crosses the threshold by the replica's own view is sent at once, however seldom batches go."""
    await crowd(redis_url, prefix)
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join(fleet_rate=10) as a:
        await eventually(lambda: any(what == "presence" for what, _ in a.store.answered), "the fleet's size")
        await a.succeed()
        await a.fail(2)
        await eventually(lambda: a.breaker.state == State.OPEN, "the trip", within=5)
        assert a.store.count("record") == 1


async def test_who_may_have_missed_news_reads_before_the_next_call(redis_url: str, prefix: str) -> None:
    """After a gap in the subscription a breaker that was not used for a while asks before its next call."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join() as a, join() as b:
        await b.succeed()
        await a.succeed()
        await a.breakers.flush()
        a.store.deaf = True
        await eventually(lambda: not a.breakers._started().uses(a.breaker._circuit), "it to be idle")
        await b.fail(2)
        await b.sees(State.OPEN)
        a.store.mend()
        await a.refused()
