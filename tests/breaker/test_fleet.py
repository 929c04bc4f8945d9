"""The fleet acts as one: one transition, one verdict, one order, one deadline."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from commontrip import (
    Breaker,
    CircuitOpenError,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    FailureCount,
    Outcome,
    Override,
    Policy,
    State,
    SuccessRatio,
)
from tests.breaker.members import Member, joins, policy
from tests.support.dependency import Dependency, Order
from tests.support.fleet import Fleet, history
from tests.support.replica import retry_after
from tests.support.servers import Server
from tests.support.waiting import eventually

WITHIN = 1.0
"""Seconds within which a state that was SET by hand is obeyed."""


async def test_t16_a_transition_is_made_once_in_the_fleet(server: Server, prefix: str) -> None:
    """Of eight processes that see the same facts one makes the transition: once made, once in the stream."""
    opens = Policy(
        trip=ConsecutiveFailures(8),
        recover=SuccessRatio(1.0, 4),
        cooldown=Cooldown(0.1, 1, 0.1, 0),
    )
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.orders = lambda one: Order("fail" if one.state == State.CLOSED else "ok", 0.005)
        await fleet.join(server.url, prefix, {"auth": opens})
        await fleet.do("traffic", breaker="auth", callers=10, pause=0.01)
        await eventually(lambda: len(fleet.seen("auth", state="OPEN")) >= 8 * 10, "ten trips")
        await fleet.do("stop")
        await fleet.do("leave")
        made = [one for one in await history(server.url, prefix, "auth") if one.reason != "seed"]
        seen = fleet.seen("auth")
        told_twice = [
            epoch
            for process in fleet.all
            for epoch, times in Counter(one.epoch for one in process.seen).items()
            if times > 1
        ]
        await fleet.outcomes()

    makers = Counter(one.epoch for one in seen if one.made)
    trips = sum(one.state == State.OPEN for one in made)
    print(f"T16: {len(made)} transitions, {trips} of them trips; {makers.total()} times made, {len(seen)} times told")
    assert trips >= 10
    assert makers == Counter(str(one.epoch) for one in made)
    assert all(after.previous == str(before.epoch) for before, after in itertools.pairwise(made))
    assert all(after.state != before.state for before, after in itertools.pairwise(made))
    assert not told_twice


async def test_t23_new_settings_in_a_rolling_deploy_take_effect(redis_url: str, prefix: str) -> None:
    """A new release judges the counts it finds by its own threshold, window and cooldown, beside the old release."""
    old = joins(redis_url, prefix, policy(FailureCount(100), window=60.0))
    new = joins(redis_url, prefix, policy(FailureCount(4), window=5.0, cooldown=0.7))
    async with old() as a:
        await a.fail(3)
        await a.breakers.flush()
        async with new() as b:
            await b.fail()
            await b.sees(State.OPEN)
            await a.sees(State.OPEN)
            trip = b.breaker.snapshot.transition
            left = a.breaker.snapshot.remaining
            await a.refused()
    assert trip
    print(f"T23: tripped at {trip.failures} failures, 3 of them of the old release; cooldown {trip.cooldown:g} s")
    assert (trip.failures, trip.cooldown) == (4, 0.7)
    assert 0 < left <= 0.7


async def test_t23_two_key_layouts_agree_through_the_state_key(server: Server, prefix: str) -> None:
    """Releases with different working keys follow each other within a second, by the state key, and come to rest."""
    opens = policy(FailureCount(3), cooldown=1.5)
    async with Dependency() as dependency, Fleet(4, dependency) as fleet:
        for process, layout in zip(fleet.all, ("", "", "v0", "v0"), strict=True):
            await fleet.enter(process, server.url, prefix, {"auth": opens}, layout=layout)
        await fleet.do("traffic", breaker="auth", callers=2)
        await dependency.more(20)
        dependency.orders = lambda one: Order("fail" if one.replica in {"r1", "r2"} else "ok")
        await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "the trip")
        at = time.time()
        await fleet.all_see("auth", "OPEN")
        followed = time.time() - at
        dependency.ok()
        calls = len(dependency.arrivals)
        await asyncio.sleep(0.2)
        calls = len(dependency.arrivals) - calls
        await fleet.all_see("auth", "CLOSED")
        await asyncio.sleep(2 * WITHIN)
        seen = Counter(one.epoch for one in fleet.seen("auth"))
        states = {told["states"]["auth"]["state"] for told in await fleet.do("tell")}
        keys = server.cli("KEYS", f"{prefix}:auth:v*:epoch")
    print(f"T23: the other layout followed in {followed:.2f} s; {len(seen)} transitions in both, at rest {states}")
    assert followed <= WITHIN
    assert calls == 0
    assert states == {"CLOSED"}
    assert server.cli("GET", f"{prefix}:auth:state") == "CLOSED"
    assert len(seen) <= 8
    assert isinstance(keys, list)
    assert len(keys) == 2


async def test_t25_a_replica_started_while_open_makes_no_call(server: Server, prefix: str) -> None:
    """Eight processes that start while the circuit is open, with a crowd at each door, make not one call."""
    cooldown = 20.0
    opens = policy(FailureCount(1), cooldown=cooldown)
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        async with joins(server.url, prefix, opens)() as first:
            await first.fail()
            await first.sees(State.OPEN)
        await fleet.join(server.url, prefix, {"auth": opens})
        told = await fleet.do("call", breaker="auth", times=50)
        outcomes: Counter[str] = sum((Counter(one["outcomes"]) for one in told), Counter())
        left = [seconds for one in told for seconds in one["retry_after"]]
        await fleet.outcomes()
    print(f"T25: {dict(outcomes)}, {len(dependency.arrivals)} calls, retry_after {min(left):.1f} to {max(left):.1f} s")
    assert not dependency.arrivals
    assert outcomes == {"refused": 400}
    assert cooldown - 10 < min(left) <= max(left) <= cooldown


BY: dict[str, Any] = {"author": "t26", "reason": "a test"}


async def test_t26_an_order_reaches_all_and_survives_restarts_and_a_flush(
    fresh_server: Callable[..., Server], prefix: str
) -> None:
    """An order holds for every replica, restarted ones and those after a FLUSHALL too, until it is taken back."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(FailureCount(2)))
    async with join() as a, join() as b, join() as c:
        for member in (a, b, c):
            await member.succeed()
        at = time.monotonic()
        await a.breaker.override(Override.FORCED_OPEN, **BY)
        await asyncio.gather(b.sees(State.OPEN), c.sees(State.OPEN))
        reached = time.monotonic() - at
        async with asyncio.TaskGroup() as all_of:
            for member in (a, b, c):
                all_of.create_task(member.refused())
    async with join() as restarted:
        await restarted.refused()
        server.flush()
        async with join() as newborn:
            await newborn.refused()
            await newborn.sees(State.OPEN)
            kept = newborn.breaker.snapshot.override
            await newborn.breaker.override(Override.DISABLED, **BY)
            await restarted.sees(State.CLOSED)
            await restarted.fail(5)
            await restarted.breakers.flush()
            seen = await restarted.breaker.read()
            await restarted.breaker.override(None, **BY)
            await eventually(lambda: newborn.breaker.snapshot.override is None, "the newborn to hear of it")
            await newborn.fail(2)
            await restarted.sees(State.OPEN)
            last = restarted.breaker.snapshot.transition
    print(f"T26: reached two others in {reached * 1000:.0f} ms; after restart and FLUSHALL still {kept}")
    assert kept == Override.FORCED_OPEN
    assert (seen.counts.failures, seen.override) == (0, Override.DISABLED)
    assert last
    assert last.reason == "tripped"


async def test_t26_an_order_expires_by_itself(redis_url: str, prefix: str) -> None:
    """An order holds for the seconds it was given: then probes decide where it was forced, and calls count again."""
    await asyncio.gather(_forced(redis_url, f"{prefix}-forced"), _disabled(redis_url, f"{prefix}-disabled"))
    print("T26: FORCED_OPEN and DISABLED of 1 s expired in both replicas")


async def _forced(redis_url: str, prefix: str) -> None:
    join = joins(redis_url, prefix, policy(FailureCount(2)))
    async with join() as a, join() as b:
        await b.succeed()
        await a.breaker.override(Override.FORCED_OPEN, **BY, seconds=1)
        await b.sees(State.OPEN)
        assert (await b.refused()).retry_after <= 1
        await eventually(lambda: not b.breaker.snapshot.remaining, "the order to expire")
        assert not b.breaker.snapshot.override
        await b.succeed()
        await a.sees(State.CLOSED)


async def _disabled(redis_url: str, prefix: str) -> None:
    join = joins(redis_url, prefix, policy(FailureCount(2)))
    async with join() as a, join() as b:
        await b.succeed()
        await a.breaker.override(Override.DISABLED, **BY, seconds=1)
        await eventually(lambda: b.breaker.snapshot.override is not None, "the order to arrive")
        await b.fail(5)
        await eventually(lambda: b.breaker.snapshot.override is None, "the order to expire")
        await b.breakers.flush()
        assert (await b.breaker.read()).counts.failures == 0
        await b.fail(2)
        await a.sees(State.OPEN)


async def test_t26_a_state_set_by_hand_under_a_probe_is_obeyed(server: Server, prefix: str) -> None:
    """`SET … OPEN` between a probe's admission and its success is obeyed, not overwritten (race 13)."""
    join = joins(server.url, prefix, policy(FailureCount(1), cooldown=0.1))
    async with join() as a, join() as b:
        await b.succeed()
        await a.fail()
        await a.sees(State.OPEN)
        await eventually(lambda: not a.breaker.snapshot.remaining, "the cooldown to end")
        probe = await a.breaker.admit()
        server.cli("SET", f"{prefix}:auth:state", "OPEN")
        probe.end(Outcome.SUCCESS)
        await eventually(lambda: _reason(a) == "external", "the order by hand to be obeyed")
        await eventually(lambda: a.epoch == b.epoch, "the other replica to follow")
        made = [one.state for one, _ in await a.breaker.history()]
        print("T26: SET OPEN under a probe that succeeds:", " -> ".join(made[::-1]))
        assert (a.breaker.state, b.breaker.state) == (State.OPEN, State.OPEN)
        assert made.count(State.CLOSED) == 1
        assert server.cli("GET", f"{prefix}:auth:state") == "OPEN"


async def test_t26_a_circuit_closed_by_hand_is_obeyed_where_all_is_refused(server: Server, prefix: str) -> None:
    """`SET … CLOSED` is obeyed within a second by replicas that only refuse: a refusal is use (race 14).

    Right after the trip, and right after the store was heard of, when a look could seem needless.
    """
    waits = []
    join = joins(server.url, prefix, policy(FailureCount(1)))
    async with join() as a, join() as b:
        await b.succeed()
        for heard in (False, True):
            await a.fail()
            await b.sees(State.OPEN)
            knocking = asyncio.create_task(_knock(a.breaker))
            if heard:
                looks = a.store.count("look")
                await eventually(partial(_looked, a, looks), "a look")
                await asyncio.sleep(0.15)
                await a.breaker.read()
            at = time.monotonic()
            server.cli("SET", f"{prefix}:auth:state", "CLOSED")
            await knocking
            await b.sees(State.CLOSED)
            waits.append(time.monotonic() - at)
            assert _reason(a) == _reason(b) == "external"
    print("T26: SET CLOSED obeyed after", ", ".join(f"{one:.2f}" for one in waits), "s")
    assert max(waits) <= WITHIN


def _looked(member: Member, before: int) -> bool:
    return member.store.count("look") > before


async def _knock(breaker: Breaker) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                async with breaker:
                    return
            except CircuitOpenError:
                await asyncio.sleep(0.01)


def _reason(member: Member) -> str:
    held = member.breaker.snapshot.transition
    return held.reason if held else ""


async def test_t27_the_dependencys_retry_after_is_the_fleets_cooldown(server: Server, prefix: str) -> None:
    """A Retry-After told to one replica keeps the fleet away until then, capped; refusals tell the true rest."""
    opens = Policy(
        trip=FailureCount(3),
        recover=SuccessRatio(1.0, 1),
        cooldown=Cooldown(0.1, 1, 1.2, 0),
        classify=Classify(retry_after=retry_after),
    )
    plain = Order("fail")
    async with Dependency() as dependency, Fleet(4, dependency) as fleet:
        await fleet.join(server.url, prefix, {"auth": opens, "capped": opens})
        for breaker in ("auth", "capped"):
            await fleet.do("call", breaker=breaker)
        waits = {"auth": 0.8, "capped": 60.0}
        dependency.orders = lambda one: Order("fail", retry_after=waits[one.breaker]) if one.replica == "r1" else plain
        for process in fleet.all[:3]:
            await asyncio.gather(*(process.do("call", breaker=breaker) for breaker in waits))
        for breaker in waits:
            await fleet.all_see(breaker, "OPEN")
        dependency.ok()
        asked = time.time()
        told = await fleet.do("call", breaker="auth")
        answered = time.time()
        for breaker in waits:
            await fleet.do("traffic", breaker=breaker, callers=3, pause=0.01)
        for breaker in waits:
            await fleet.all_see(breaker, "CLOSED")
        trips = {breaker: (await history(server.url, prefix, breaker))[1] for breaker in waits}
        await fleet.outcomes()

    until = {breaker: trip.until for breaker, trip in trips.items()}
    came = {breaker: dependency.came(breaker=breaker, state="HALF_OPEN")[0].at for breaker in waits}
    parked = until["auth"] - dependency.came(breaker="auth", replica="r1")[1].at
    left = [one["retry_after"][0] for one in told]
    print(
        f"T27: Retry-After 0.8 s: away for {parked:.2f} s; 60 s, capped at 1.2 s: for"
        f" {until['capped'] - trips['capped'].since:.2f} s; refusals say {min(left):.3f} to {max(left):.3f} s,"
        f" {until['auth'] - answered:.3f} to {until['auth'] - asked:.3f} s remained"
    )
    assert 0.8 <= parked <= 0.95
    assert until["capped"] - trips["capped"].since == pytest.approx(1.2, abs=0.001)
    assert all(came[breaker] >= until[breaker] for breaker in waits)
    assert max(left) <= until["auth"] - asked + _MEASURED
    assert min(left) >= until["auth"] - answered - _MEASURED


_MEASURED = 0.01
"""Seconds by which a replica may be wrong about the store's clock."""


async def test_race_23_replicas_made_by_a_fork_have_names_of_their_own() -> None:
    """Processes forked from one that has made its `Breakers` are different replicas (race 23)."""
    names = (await asyncio.to_thread(_fork)).split()
    print("race 23:", *names)
    assert len(names) == 3
    assert len(set(names)) == 3


def _fork() -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", _FORKING], capture_output=True, text=True, check=True, env=env, timeout=20
    )
    return ran.stdout


_FORKING = """
import asyncio, os
from commontrip import Breakers, MemoryStore

breakers = Breakers(MemoryStore())

async def main():
    async with breakers:
        os.write(1, (breakers.replica + " ").encode())

children = []
for _ in range(2):
    child = os.fork()
    if not child:
        asyncio.run(main())
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
asyncio.run(main())
"""
