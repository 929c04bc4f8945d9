"""Races for the probe budget: who is at the dependency fills a place, whatever becomes of the keys."""

import asyncio
from typing import Any

import pytest

from commontrip import CircuitOpenError, ConsecutiveFailures, Outcome, State
from tests.breaker.members import Join, forget, joins, policy
from tests.breaker.test_races_leases import answers, probe
from tests.support.servers import Server
from tests.support.waiting import eventually

LEASE = 0.2
REST = 0.1
"""Seconds between two asks of one replica after a refusal."""


def fleet(url: str, prefix: str, **settings: Any) -> Join:
    """Members of a fleet that opens at one failure, and has two places among its probes."""
    given: dict[str, Any] = {"probes": 2, "cooldown": 0.05, "probe_lease": LEASE} | settings
    return joins(url, prefix, policy(ConsecutiveFailures(1), **given))


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Such a fleet, with a short cooldown."""
    return fleet(redis_url, prefix)


async def test_a_slow_probe_of_the_earlier_round_fills_a_place(redis_url: str, prefix: str) -> None:
    """A probe that outlasts its round, by more than a lease, still fills a place in the next one."""
    join = fleet(redis_url, prefix, cooldown=2 * LEASE)
    async with join() as a, join() as b:
        await a.half_open()
        slow = await probe(a)
        (await probe(a)).end(Outcome.FAILURE)
        await a.sees(State.OPEN)
        await eventually(lambda: not a.breaker.snapshot.remaining, "the cooldown to end")
        assert len(await b.admitted(2 * LEASE)) == 1
        slow.end(Outcome.SUCCESS)
        await eventually(lambda: answers(a, "settle")[-1:] == ["old"], "the slow one to be told apart")
        assert (await probe(b)).probe


async def test_running_probes_keep_their_places_through_a_flush(join: Join, server: Server, prefix: str) -> None:
    """When all keys are lost the probes that run fill the budget, for longer than a lease (race 17)."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        slow = [await probe(a), await probe(a)]
        await b.sees(State.HALF_OPEN)  # who knows of no round tells Redis what went before it
        forget(server, prefix)
        assert await b.admitted(4 * LEASE) == []
        assert not any(one.done for one in slow)


async def test_running_probes_keep_their_places_when_the_leases_are_lost(
    join: Join, server: Server, prefix: str
) -> None:
    """When the leases alone are lost the probes that run fill the budget, for longer than a lease."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        slow = [await probe(a), await probe(a)]
        server.cli("DEL", f"{prefix}:auth:v1:probes")
        assert await b.admitted(4 * LEASE) == []
        assert not any(one.done for one in slow)


async def test_a_grant_older_than_its_lease_admits_nobody(redis_url: str, prefix: str) -> None:
    """A place that ran out on its way to the replica is not used: it is somebody else's by now."""
    join = fleet(redis_url, prefix, probes=1)
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        a.hurry()
        held = a.store.hold("reply", "lease")
        await a.refused()
        mine = await probe(b)
        await held.release()
        assert await a.admitted(LEASE) == []
        assert not mine.done


async def test_a_crowd_is_refused_when_one_of_it_fills_the_round(redis_url: str, prefix: str) -> None:
    """When the last place goes to one of a crowd the others are refused at once, and ask the store nothing more."""
    async with fleet(redis_url, prefix, probe_lease=5)() as a, fleet(redis_url, prefix, probe_lease=5)() as b:
        await b.succeed()
        await a.half_open()
        await probe(a)
        await b.sees(State.HALF_OPEN)
        b.breaker._circuit.replica.budget = 60.0
        async with asyncio.timeout(10):
            crowd = await asyncio.gather(*(b.breaker.admit() for _ in range(10)), return_exceptions=True)
        assert [type(one) for one in crowd].count(CircuitOpenError) == 9
        assert answers(b, "lease") == ["granted"]
        assert await b.admitted(REST / 2) == []
        assert b.store.count("lease") == 2


async def test_who_comes_together_fills_the_round_together(redis_url: str, prefix: str) -> None:
    """While a place is still asked for nobody who waits for it is refused, though it is the round's last one."""
    async with fleet(redis_url, prefix, probes=3)() as a:
        await a.half_open()
        await probe(a)
        both = await asyncio.gather(a.breaker.admit(), a.breaker.admit())
        assert all(one.probe for one in both)


async def test_a_crowd_that_comes_too_early_asks_ten_times_a_second(
    redis_url: str, server: Server, prefix: str
) -> None:
    """When the store's cooldown ends later than the replica thinks the crowd is not sent to the store, one and all."""
    join = fleet(redis_url, prefix, cooldown=0.5)
    async with join() as a:
        await a.open()
        record = str(server.cli("GET", f"{prefix}:auth:v1:epoch")).split(" ")
        record[3] = str(int(record[3]) + 450)
        server.cli("SET", f"{prefix}:auth:v1:epoch", " ".join(record))
        await eventually(lambda: not a.breaker.snapshot.remaining, "the cooldown to end here")
        assert await a.admitted(3 * REST) == []
        assert 1 <= a.store.count("lease") <= 3 + 1
        await probe(a)
