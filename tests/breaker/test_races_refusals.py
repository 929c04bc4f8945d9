"""Races around the provisional refusal: it ends with the store's answer, whatever that is."""

import asyncio
import contextlib

import pytest

from commontrip import CircuitOpenError, ConsecutiveFailures, FailureRate, Outcome, Override, State
from tests.breaker.members import Join, Member, joins, policy
from tests.support.servers import Server
from tests.support.unreliable_store import Clock
from tests.support.waiting import eventually


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at two failures in a row, for long."""
    return joins(redis_url, prefix, policy(ConsecutiveFailures(2)))


async def crosses(member: Member) -> None:
    """Cross the threshold, as far as the replica knows, and see the next call refused."""
    await member.fail(2)
    assert member.breaker.snapshot.provisional
    await member.refused()


async def admits(member: Member) -> None:
    """Wait until the refusal has been withdrawn, and make a call that is counted."""
    await eventually(lambda: not member.breaker.snapshot.provisional, "the refusal to be withdrawn")
    counted = (await member.breaker.read()).counts.calls
    await member.succeed()
    await member.breakers.flush()
    assert (await member.breaker.read()).counts.calls == counted + 1


async def reset(member: Member) -> None:
    """Begin a new CLOSED epoch, as an operator does."""
    await member.breaker.override(None, author="test", reason="race 28")


async def test_race_28_confirmed(join: Join) -> None:
    """Race 28: the next call is refused before the store has answered, and the answer makes it OPEN."""
    async with join() as a:
        await a.succeed()
        held = a.store.hold("reply", "record")
        await crosses(a)
        assert a.breaker.state == State.CLOSED
        await held.release()
        await a.sees(State.OPEN)
        assert not a.breaker.snapshot.provisional


async def test_race_28_enough_successes_elsewhere(redis_url: str, prefix: str) -> None:
    """Race 28: the refusal is withdrawn when the fleet's counts do not cross the threshold."""
    join = joins(redis_url, prefix, policy(FailureRate(0.5, minimum_calls=3)))
    async with join() as a, join() as b:
        await a.succeed()
        await b.succeed(9)
        await b.breakers.flush()
        await a.fail(2)
        assert a.breaker.snapshot.provisional
        await admits(a)
        assert a.store.count("transition") == 0


async def test_race_28_lost(join: Join) -> None:
    """Race 28: the refusal is withdrawn when another replica has changed the state first."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.succeed()
        a.store.deaf = True
        held = a.store.hold("request", "transition")
        await crosses(a)
        await held.caught()
        await reset(b)
        await held.release()
        await admits(a)
        assert a.epoch == b.epoch


async def test_race_28_old(join: Join) -> None:
    """Race 28: the refusal is withdrawn when the batch that crossed the threshold belongs to an earlier epoch."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.succeed()
        a.store.deaf = True
        held = a.store.hold("request", "record")
        await crosses(a)
        await held.caught()
        await reset(b)
        await held.release()
        await admits(a)
        assert a.epoch == b.epoch


async def test_race_28_stale(redis_url: str, server: Server, prefix: str) -> None:
    """Race 28: the refusal is withdrawn when the facts were too old to decide on, and are gone."""
    clock = Clock()
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join(clock=clock) as a:
        await a.succeed()
        held = a.store.hold("request", "transition")
        await crosses(a)
        await held.caught()
        server.cli("DEL", f"{prefix}:auth:v1:window")
        clock.shift += 10
        await held.release()
        await admits(a)
        assert a.breaker.state == State.CLOSED


async def test_race_28_stale_facts_that_still_hold(redis_url: str, prefix: str) -> None:
    """Race 28: what was decided too late is decided again on fresh facts."""
    clock = Clock()
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(2)))
    async with join(clock=clock) as a:
        await a.succeed()
        held = a.store.hold("request", "transition")
        await crosses(a)
        await held.caught()
        clock.shift += 10
        await held.release()
        await a.sees(State.OPEN)


async def test_race_28_ext(join: Join, server: Server, prefix: str) -> None:
    """Race 28: the refusal gives way to what somebody has SET meanwhile."""
    async with join() as a:
        await a.succeed()
        held = a.store.hold("request", "transition")
        await crosses(a)
        await held.caught()
        server.cli("SET", f"{prefix}:auth:state", "HALF_OPEN")
        await held.release()
        await a.sees(State.HALF_OPEN)
        assert (await a.breaker.admit()).probe
        assert a.breaker.snapshot.transition.reason == "external"


async def test_race_28_no_answer(join: Join) -> None:
    """Race 28: when no answer comes the replica opens by itself, and not for the fleet."""
    async with join() as a:
        await a.succeed()
        a.store.hold("reply", "record")
        a.store.cut = True
        await crosses(a)
        await a.sees(State.OPEN)
        assert (a.breaker.snapshot.local, a.breaker.snapshot.provisional, a.made) == (True, False, [])


async def test_race_28_an_order_that_the_store_still_holds(redis_url: str, server: Server, prefix: str) -> None:
    """Race 28: the refusal is withdrawn when the store still holds an order that has run out here."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        await a.breaker.override(Override.DISABLED, author="test", reason="race 28", seconds=1)
        held = a.store.hold("request", "record")
        call = await a.breaker.admit()
        call.end(Outcome.FAILURE)
        await eventually(lambda: a.breaker.snapshot.override is None, "the order to end here")
        fields = str(server.cli("GET", f"{prefix}:auth:v1:epoch")).split(" ")
        fields[7] = str(int(fields[7]) + 300)
        server.cli("SET", f"{prefix}:auth:v1:epoch", " ".join(fields))
        while not held.arrived.is_set():  # the gate learns a moment later that the order is over
            with contextlib.suppress(CircuitOpenError):
                await a.fail()
            await asyncio.sleep(0.01)
        await held.release()
        await asyncio.wait_for(a.insists(lambda: a.breaker.snapshot.counts.calls > 0, "a call to be counted"), 5)
