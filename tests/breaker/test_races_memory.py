"""Races around what is remembered: nobody's memory is lost, and no garbage is taken for it."""

import asyncio
import contextlib

import pytest

from commontrip import CircuitOpenError, ConsecutiveFailures, FailureCount, Outcome, Override, State
from tests.breaker.members import Join, forget, joins, policy
from tests.support.servers import Server
from tests.support.unreliable_store import Clock
from tests.support.waiting import eventually


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at one failure, for long."""
    return joins(redis_url, prefix, policy(ConsecutiveFailures(1)))


async def test_an_idle_replica_that_remembers_speaks_up(join: Join, server: Server, prefix: str) -> None:
    """Who remembers OPEN says so to a new incarnation, also when it has had no call for a while (race 18)."""
    async with join() as a:
        await a.open()
        looks = a.store.count("look")
        await a.insists(lambda: a.store.count("look") > looks, "a look")
        await asyncio.sleep(1.8)  # two looks without use
        forget(server, prefix)
        async with join() as b:
            assert await b.admitted(0.2) == []
            await b.sees(State.OPEN)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_verdict_outlives_its_store_and_its_clock(
    redis_url: str, server: Server, prefix: str, hours: int
) -> None:
    """A verdict that is told to an empty store with another clock lasts as long as it still had to."""
    clock = Clock()
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), cooldown=20.0))
    async with join(clock=clock) as a:
        await a.open()
        told = a.epoch
        forget(server, prefix)
        clock.shift += 3600 * hours
        await a.insists(lambda: a.epoch != told, "the verdict to be told again")
        made = a.breaker.snapshot.transition
        assert 15 < made.until - made.since <= 20
        assert 15 < a.breaker.snapshot.remaining <= 20


async def test_an_order_ends_although_the_clock_went_back(redis_url: str, server: Server, prefix: str) -> None:
    """An order is over after its time, and calls count again, also when the store thinks it has to last longer."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.succeed()
        await a.breaker.override(Override.DISABLED, author="test", reason="the clock", seconds=1)
        record = str(server.cli("GET", f"{prefix}:auth:v1:epoch")).split(" ")
        record[7] = str(int(record[7]) + 3_600_000)
        server.cli("SET", f"{prefix}:auth:v1:epoch", " ".join(record))

        async def fail() -> None:
            while True:
                with contextlib.suppress(CircuitOpenError):
                    (await a.breaker.admit()).end(Outcome.FAILURE)
                await asyncio.sleep(0.02)

        failing = asyncio.create_task(fail())
        await eventually(lambda: a.breaker.state == State.OPEN, "the order to end", within=5)
        failing.cancel()


NEARLY = (
    "AB.1.CD CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    "ab.01.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    "ab.1.cd CLOSED 000 0 0 0 - 0 seed r 0 0 - - 0 - -",
    "ab.1.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - FOO 0 - -",
    "ab.1.cd CLOSED 0 0 0 0 LATER 0 seed r 0 0 - - 0 - -",
    "ab.1.cd CLOSED 0 0 0 0 DISABLED 0 seed r 0 0 - - 0 - -",
    "ab.1.cd CLOSED 0 0 0 0 - 0 seed r\xa0\xff 0 0 - - 0 - -",
    "ab.1.cd CLOSED 0 0 0 0 - 0 seed r\x7f 0 0 - - 0 - -",
    f"ab.1.cd CLOSED {'9' * 400} 0 0 0 - 0 seed r 0 0 - - 0 - -",
)


async def test_what_is_nearly_a_record_is_repaired_or_taken(join: Join, server: Server, prefix: str) -> None:
    """Whatever stands in the epoch key, calls count, the circuit trips, and nothing is read again and again."""
    for number, record in enumerate(NEARLY):
        server.cli("SET", f"{prefix}:b{number}:v1:epoch", record.encode("latin-1"))
    async with join() as a:
        breakers = [a.breakers.get(f"b{number}", policy(FailureCount(2))) for number in range(len(NEARLY))]
        for breaker in breakers:
            (await breaker.admit()).end(Outcome.FAILURE)
        await a.breakers.flush()
        failures = [(await breaker.read()).counts.failures for breaker in breakers]
        looks, reads = a.store.count("look"), a.store.count("read")
        assert failures == [1] * len(NEARLY)
        for breaker in breakers:
            (await breaker.admit()).end(Outcome.FAILURE)
        await eventually(lambda: all(breaker.state == State.OPEN for breaker in breakers), "all to trip")
        for breaker in breakers:
            with pytest.raises(CircuitOpenError):
                await breaker.admit()
        await eventually(lambda: a.store.count("look") > looks, "a look")
        assert a.store.count("read") == reads


async def test_a_long_name_is_no_reason_to_read(join: Join) -> None:
    """A replica with a name of 150 characters finds what it wrote, and looks on without reading."""
    async with join(replica="r" * 150) as a:
        await a.open()
        looks, reads = a.store.count("look"), a.store.count("read")
        await a.insists(lambda: a.store.count("look") > looks + 1, "looks")
        assert a.store.count("read") == reads
