"""How seldom, how soon, and after what a replica talks to the store."""

import asyncio

from commontrip import Breakers, ConsecutiveFailures, Outcome, State
from commontrip.redis import RedisStore
from tests.breaker.members import crowd, joins, policy
from tests.support.cluster import Cluster
from tests.support.unreliable_store import UnreliableStore
from tests.support.waiting import eventually


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


async def test_in_a_cluster_a_replica_of_many_breakers_stays_under_the_rate(cluster: Cluster, prefix: str) -> None:
    """Where each breaker costs a command, who uses many batches and looks the more seldom, under the same rate."""
    store = UnreliableStore(RedisStore.from_url(cluster.url, prefix=prefix))
    async with Breakers(store, fleet_rate=40) as breakers:
        many = [breakers.get(f"host-{number}", policy(ConsecutiveFailures(2))) for number in range(40)]
        for breaker in many:
            await breaker.read()
            await asyncio.wait({breaker._circuit.knowledge.reread()})

        async def use(seconds: float) -> None:
            end = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end:
                for breaker in many:
                    (await breaker.admit()).end(Outcome.SUCCESS)
                await asyncio.sleep(0.02)

        await use(1)
        store.asked.clear()
        await use(4)
        sent = {what: sum(len(asked) for did, asked in store.asked if did == what) for what in ("record", "look")}
    print(f"in 4 s at 40 commands a second in all: {sent}")
    assert 0 < sent["record"] <= 0.65 * 40 * 4 + 40
    assert sent["look"] <= 0.2 * 40 * 4 + 40


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
