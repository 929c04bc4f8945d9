"""Races that the protocol's list does not have: found by reading it as an adversary would."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from commontrip import CircuitOpenError, ConsecutiveFailures, FailureCount, Outcome, Override, State
from tests.breaker.members import Boom, Member, joins, policy
from tests.breaker.test_races_epochs import forget
from tests.breaker.test_races_leases import probe
from tests.support.servers import Server
from tests.support.unreliable_store import Clock
from tests.support.waiting import eventually


async def test_set_after_a_fresh_answer_is_obeyed_within_a_second(redis_url: str, server: Server, prefix: str) -> None:
    """A SET by hand is obeyed within a second, also when the store has just answered something else."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.open()
        looks = a.store.count("look")
        await a.insists(lambda: a.store.count("look") > looks, "a look")
        await asyncio.sleep(0.1)
        await a.breaker.read()
        server.cli("SET", f"{prefix}:auth:state", "CLOSED")
        at = time.monotonic()
        await a.insists(lambda: a.breaker.state == State.CLOSED, "closed")
        assert time.monotonic() - at <= 1.0


async def test_an_idle_replica_that_remembers_speaks_up(redis_url: str, server: Server, prefix: str) -> None:
    """Who remembers OPEN tells a newborn incarnation so, even if it has had no call for a while."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.open()
        await asyncio.sleep(2)  # two looks without use
        forget(server, prefix)
        async with join() as b:
            with pytest.raises(CircuitOpenError):
                await b.breaker.admit()
            await b.sees(State.OPEN)


async def test_a_cancelled_read_cancels_nobody_else(redis_url: str, prefix: str) -> None:
    """Two readers of one breaker: cancelling one leaves the other alone."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.succeed()
        held = a.store.hold("reply", "read")
        one, two = asyncio.create_task(a.breaker.read()), asyncio.create_task(a.breaker.read())
        await held.caught()
        one.cancel()
        await asyncio.wait({one})
        await held.release()
        await asyncio.wait({two})
        assert not two.cancelled()


async def test_slow_probe_of_the_earlier_round_fills_a_place(redis_url: str, prefix: str) -> None:
    """A probe that outlasts its round and one lease still counts in the next round's budget."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.5, probe_lease=0.2))
    async with join() as a, join() as b:
        await a.half_open()
        slow = await probe(a)
        (await probe(a)).end(Outcome.FAILURE)
        await a.sees(State.OPEN)
        await eventually(lambda: not a.breaker.snapshot.remaining, "the cooldown to end")
        await asyncio.sleep(0.02)
        await probe(b)
        with pytest.raises(CircuitOpenError):
            await b.breaker.admit()
        assert not slow.done


async def test_slow_probes_keep_their_places_through_a_flush(redis_url: str, server: Server, prefix: str) -> None:
    """Probes that run when all keys are lost, for longer than a lease, still fill the budget."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=0.3))
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        slow = [await probe(a), await probe(a)]
        forget(server, prefix)
        end = time.monotonic() + 2.5
        extra = []
        while time.monotonic() < end:
            with contextlib.suppress(CircuitOpenError):
                extra.append(await b.breaker.admit())
            await asyncio.sleep(0.001)
        assert not any(one.done for one in slow)
        assert extra == []


async def test_slow_probes_outlast_lost_leases(redis_url: str, server: Server, prefix: str) -> None:
    """Probes that run when the leases are lost, for longer than a lease, still fill the budget."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=0.3))
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        slow = [await probe(a), await probe(a)]
        server.cli("DEL", f"{prefix}:auth:v1:probes")
        end = time.monotonic() + 1.5
        extra = []
        while time.monotonic() < end:
            with contextlib.suppress(CircuitOpenError):
                extra.append(await b.breaker.admit())
            await asyncio.sleep(0.001)
        assert not any(one.done for one in slow)
        assert extra == []


async def test_a_grant_older_than_its_lease_admits_nobody(redis_url: str, prefix: str) -> None:
    """A place whose lease ran out on the way to the replica is not used."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), cooldown=0.05, probe_lease=0.2))
    async with join() as a, join() as b:
        await b.succeed()
        await a.half_open()
        held = a.store.hold("reply", "lease")
        await a.refused()
        mine = await probe(b)
        await held.release()
        with pytest.raises(CircuitOpenError):
            await a.breaker.admit()
        assert not mine.done


async def test_the_local_budget_counts_probes_that_run(redis_url: str, prefix: str) -> None:
    """When the store goes in the middle of a round the replica's own running probes fill its local budget."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=0.3))
    async with join() as a:
        await a.half_open()
        slow = [await probe(a), await probe(a)]
        a.store.refuse(10_000)
        end = time.monotonic() + 1.0
        extra = []
        while time.monotonic() < end:
            with contextlib.suppress(CircuitOpenError):
                extra.append(await a.breaker.admit())
            await asyncio.sleep(0.01)
        assert not any(one.done for one in slow)
        assert extra == []


async def test_refused_writes_keep_the_local_budget(fresh_server: Callable[..., Server], prefix: str) -> None:
    """Race 33: while reads work and writes are refused the local round holds its budget."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=5))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        server.config("maxmemory", 1)
        await a.fail()
        await a.sees(State.OPEN)
        running = []
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(CircuitOpenError):
                running.append(await a.breaker.admit())
            await asyncio.sleep(0.001)
        print([one.probe for one in running], [r.text for r in a.reports])
        assert len(running) == 2


async def test_refused_writes_let_the_local_round_end(fresh_server: Callable[..., Server], prefix: str) -> None:
    """Race 33: while reads work and writes are refused a slow local round still ends."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(ConsecutiveFailures(1), probes=3, cooldown=0.05, probe_lease=5))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        server.config("maxmemory", 1)
        await a.fail()
        await a.sees(State.OPEN)
        for _ in range(6):
            await asyncio.sleep(0.7)
            with contextlib.suppress(CircuitOpenError):
                await a.succeed()
            if a.breaker.state == State.CLOSED:
                break
        assert a.breaker.state == State.CLOSED


async def test_after_a_silence_a_set_is_still_obeyed(redis_url: str, server: Server, prefix: str) -> None:
    """After the store was silent for a second, while open, SET CLOSED is obeyed within a second."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.open()
        a.store.cut = True
        await a.insists(lambda: a.breakers.local, "the store to be taken for gone")
        a.store.cut = False  # nobody says so: the connection was never lost
        a.store._faults.clear()
        server.cli("SET", f"{prefix}:auth:state", "CLOSED")
        at = time.monotonic()
        await a.insists(lambda: a.breaker.state == State.CLOSED, "closed")
        assert time.monotonic() - at <= 1.0


async def test_a_restarted_replica_of_the_same_name_counts(redis_url: str, prefix: str) -> None:
    """Outcomes of a process that takes the name of the one before it are counted."""
    join = joins(redis_url, prefix, policy(FailureCount(100)))
    async with join(replica="pod-0") as a:
        for _ in range(3):
            await a.fail()
            await a.breakers.flush()
    async with join(replica="pod-0") as a:
        await a.fail()
        await a.breakers.flush()
        assert (await a.breaker.read()).counts.failures == 4


@pytest.mark.parametrize(
    "record",
    [
        "AB.1.CD CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
        "ab.1.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - FOO 0 - -",
        "ab.1.cd CLOSED 0 0 0 0 DISABLED 0 seed r 0 0 - - 0 - -",
        "ab.1.cd CLOSED 0 0 0 0 - 0 seed r\x7f 0 0 - - 0 - -",
        "ab.1.cd CLOSED 0 0 0 0 - 0 seed \u00a0r 0 0 - - 0 - -",
        "ab.1.cd CLOSED 0 0 0 0 - 0 seed r\xff 0 0 - - 0 - -",
        "ab.1.cd CLOSED 0000000000000000000000001 0 0 0 - 0 seed r 0 0 - - 0 - -",
    ],
)
async def test_garbage_that_looks_like_a_record(redis_url: str, server: Server, prefix: str, record: str) -> None:
    """A record that is nearly right is repaired or taken, never raised, and calls go on."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    server.cli("SET", f"{prefix}:auth:v1:epoch", record.encode("latin-1") if "\xff" in record else record)
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        assert (await a.breaker.read()).counts.calls == 1
        looks = a.store.count("look")
        reads = a.store.count("read")
        await a.succeed()
        await asyncio.sleep(2)
        print(a.store.count("look") - looks, a.store.count("read") - reads)
        assert a.store.count("read") - reads <= 1


async def test_a_long_replica_name_costs_no_reads(redis_url: str, prefix: str) -> None:
    """A name of 150 characters is a valid replica: looks find nothing new."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join(replica="r" * 150) as a:
        await a.open()
        reads = a.store.count("read")
        looks = a.store.count("look")
        await a.insists(lambda: a.store.count("look") > looks + 1, "looks")
        await asyncio.sleep(0.1)
        assert a.store.count("read") == reads


async def test_an_order_ends_although_the_clock_went_back(redis_url: str, prefix: str) -> None:
    """DISABLED ends at its time, and calls count again, also when the clock went back meanwhile."""
    clock = Clock()
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join(clock=clock) as a:
        await a.succeed()
        await a.breaker.override(Override.DISABLED, author="t", reason="t", seconds=1)
        await asyncio.sleep(0.5)
        await shift_back(a, clock, 3600.0)
        end = time.monotonic() + 6
        while a.breaker.state != State.OPEN and time.monotonic() < end:
            with contextlib.suppress(CircuitOpenError, Boom):
                async with a.breaker:
                    raise Boom
            await asyncio.sleep(0.02)
        assert a.breaker.state == State.OPEN


async def shift_back(a: Member, clock: Clock, seconds: float) -> None:
    """Move the store's clock back: its own, and so all that its record says."""
    clock.shift -= seconds
    store = a.store._store
    text = (await store.look(["auth"]))[0][1]

    f = text.split(" ")
    for i in (2, 3, 7, 14):
        if f[i] != "0":
            f[i] = str(int(f[i]) + int(seconds * 1000))
    await store.client.set(store._block("auth")[0], " ".join(f))


async def test_an_old_answer_takes_no_counts_back(redis_url: str, prefix: str) -> None:
    """A read answered late does not make a replica forget its own failures."""
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
        await a.fail(1)
        await a.refused()


async def test_an_idle_replica_comes_back_after_an_outage(redis_url: str, prefix: str) -> None:
    """A replica without calls finds the store again."""
    join = joins(redis_url, prefix, policy(FailureCount(3)))
    async with join() as a:
        await a.succeed()
        a.store.cut = True
        await a.insists(lambda: a.breakers.local, "the store to be taken for gone")
        await asyncio.sleep(1)
        a.store.mend()
        await eventually(lambda: not a.breakers.local, "back")


async def test_race_28_a_batch_that_no_longer_counts_ends_the_refusal(
    redis_url: str, server: Server, prefix: str
) -> None:
    """Race 28: a crossing batch answered `old` in the same epoch (an order that the store still holds) withdraws it."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), cooldown=0.3))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        await a.breaker.override(Override.DISABLED, author="t", reason="t", seconds=1)
        fields = str(server.cli("GET", f"{prefix}:auth:v1:epoch")).split(" ")
        fields[7] = str(int(fields[7]) + 300)
        server.cli("SET", f"{prefix}:auth:v1:epoch", " ".join(fields))
        await eventually(lambda: a.breaker.snapshot.override is None, "the order to end here")
        await asyncio.sleep(0.01)
        await a.fail()
        await a.breakers.flush()
        print(a.store.answered[-3:])
        await asyncio.sleep(1)
        for _ in range(20):
            await a.succeed()
