"""Time: one clock, Redis's; what a replica's own clock says changes nothing."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from commontrip import (
    Breaker,
    Breakers,
    ConsecutiveFailures,
    Cooldown,
    FailureCount,
    Outcome,
    Override,
    Policy,
    State,
    SuccessRatio,
)
from commontrip._transition import parse
from commontrip.redis import RedisStore
from tests.breaker.members import Boom, crowd, joins, policy
from tests.support.dependency import Dependency
from tests.support.fleet import Fleet, history
from tests.support.replica import StopsToTrip
from tests.support.servers import Server
from tests.support.waiting import PATIENCE, eventually

HOUR = 3600.0


async def test_t09_replica_clocks_an_hour_apart_change_nothing(server: Server, prefix: str) -> None:
    """With clocks an hour apart the cooldown is exact to 100 ms, the probe budget is kept, the times told are true."""
    cooldown = 1.0
    opens = Policy(
        trip=ConsecutiveFailures(5),
        recover=SuccessRatio(1.0, 2),
        cooldown=Cooldown(cooldown, 1, cooldown, 0),
    )
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.fail()
        clocks = zip(fleet.all, [-HOUR, 0.0, HOUR] * 3, strict=False)
        await asyncio.gather(
            *(fleet.enter(process, server.url, prefix, {"auth": opens}, skew=skew) for process, skew in clocks)
        )
        await fleet.do("traffic", breaker="auth", callers=5, pause=0.01)
        await fleet.all_see("auth", "OPEN")
        dependency.hang()
        told = await fleet.do("call", breaker="auth", times=5)
        (probe, *_) = await dependency.more(state="HALF_OPEN")
        await asyncio.sleep(0.3)
        dependency.ok()
        dependency.release()
        await fleet.all_see("auth", "CLOSED")
        made = await history(server.url, prefix, "auth")
        seen = fleet.seen("auth")
        await fleet.outcomes()

    trip, ended = made[1:3]
    error = ended.since - trip.since - cooldown
    left = [seconds for answer in told for seconds in answer["retry_after"]]
    lag = max(one.lag for one in seen)
    print(
        f"T9: clocks an hour apart: cooldown wrong by {error * 1000:.0f} ms,"
        f" {dependency.peaks['HALF_OPEN']} of 2 probes at once, retry_after {min(left):.2f} to"
        f" {max(left):.2f} s, learned after {lag * 1000:.0f} ms at most"
    )
    assert 0 <= error < 0.1
    assert probe.at >= trip.since + cooldown
    assert dependency.peaks["HALF_OPEN"] == 2
    assert min(left) > 0
    assert max(left) <= cooldown
    assert max(left) - min(left) < cooldown / 2  # all replicas say the same of one moment
    assert lag < 1
    assert all(abs(one.since - probe.at) < 60 for one in made)


async def test_t10_a_short_cooldown_is_honoured(server: Server, prefix: str) -> None:
    """A cooldown of 250 ms ends no sooner, and under traffic no more than 50 ms later, time after time."""
    cooldown = 0.25
    opens = Policy(
        trip=ConsecutiveFailures(3),
        recover=SuccessRatio(1.0, 1),
        cooldown=Cooldown(cooldown, 1, cooldown, 0),
    )
    async with Dependency() as dependency, Fleet(4, dependency) as fleet:
        dependency.fail()
        await fleet.join(server.url, prefix, {"auth": opens})
        await fleet.do("traffic", breaker="auth", callers=5, pause=0.01)
        probes = await dependency.more(6, state="HALF_OPEN")
        await fleet.do("stop")
        made = await history(server.url, prefix, "auth")
        await fleet.outcomes()

    waited = [after.since - open_.since for open_, after in itertools.pairwise(made) if open_.state == State.OPEN]
    rounds = {str(after.epoch): open_.until for open_, after in itertools.pairwise(made)}
    print("T10: cooldown 250 ms:", ", ".join(f"{one * 1000:.0f}" for one in waited), "ms")
    assert len(waited) >= 6
    assert min(waited) >= cooldown
    assert max(waited) <= cooldown + 0.05
    assert all(probe.at >= rounds[probe.epoch] for probe in probes)


async def test_t15_every_key_expires_and_outlives_the_open_period(server: Server, prefix: str) -> None:
    """Every key has a TTL, and what tells of an open circuit outlives the open period."""
    base, cooldown, forced = 60.0, 300.0, 900.0
    opens = policy(FailureCount(3), cooldown=cooldown)
    order: dict[str, Any] = {"author": "t15", "reason": "to be held"}
    async with Breakers(RedisStore.from_url(server.url, prefix=prefix, ttl=base), store_budget=PATIENCE) as breakers:
        breaker = breakers.get("auth", opens)
        await fail(breaker, 2)
        await breakers.flush()
        closed = ttls(server, prefix)
        await fail(breaker)
        await eventually(lambda: breaker.state == State.OPEN, "the circuit to open")
        await eventually(lambda: "learned" in ttls(server, prefix), "the note of it")
        opened = ttls(server, prefix)
        await breaker.override(Override.FORCED_OPEN, **order, seconds=forced)
        held = ttls(server, prefix)
        await breaker.override(None, **order)
        probe = await breaker.admit()
        half_open = ttls(server, prefix)
        probe.end(Outcome.SUCCESS)

    said = {"CLOSED": closed, "OPEN": opened, "FORCED_OPEN": held, "HALF_OPEN": half_open}
    print("T15: TTLs (s):", "; ".join(f"{state} {_range(all_of)}" for state, all_of in said.items()))
    for left, span in ((closed, 0.0), (opened, cooldown), (held, forced), (half_open, forced)):
        assert min(left.values()) > 0
        assert left.pop("transitions") <= 86_400
        assert max(left.values()) <= base + max(span, opens.window)
    for left, span in ((opened, cooldown), (held, forced)):
        short = {part for part in _TELLING if left[part] < span}
        assert not short


_TELLING = ("epoch", "state", "failures", "lastFailure", "cooldown")


def ttls(server: Server, prefix: str) -> dict[str, float]:
    """Return the remaining TTLs (s) of all keys, by the last part of their names."""
    with Redis(port=server.port) as client:
        keys = client.keys(f"{prefix}:*")
        return {key.decode().rpartition(":")[2]: client.pttl(key) / 1000 for key in keys}


def _range(left: dict[str, float]) -> str:
    return f"{len(left)} keys, {min(left.values()):.0f} to {max(left.values()):.0f}"


async def fail(breaker: Breaker, times: int = 1) -> None:
    """Make calls that fail."""
    for _ in range(times):
        with pytest.raises(Boom):
            async with breaker:
                raise Boom


async def test_race_29_a_replica_that_slept_does_not_trip_on_old_facts(server: Server, prefix: str) -> None:
    """A process stopped for 2 s between facts and decision does not trip on them, and admits again (race 29)."""
    old = Policy(trip=StopsToTrip(3), window=1.0)
    async with Dependency() as dependency, Fleet(1, dependency) as fleet:
        dependency.fail()
        await fleet.join(server.url, prefix, {"auth": old})
        (sleeper,) = fleet.all
        asking = asyncio.create_task(sleeper.do("call", breaker="auth", times=3))
        await sleeper.frozen()
        facts = server.cli("GET", f"{prefix}:auth:failures")
        await asyncio.sleep(2)
        dependency.ok()
        sleeper.thaw()
        await asking
        await sleeper.do("traffic", breaker="auth", callers=1)
        await eventually(lambda: dependency.arrivals[-1].answer == "ok", "a call to be admitted")
        made = await history(server.url, prefix, "auth")
        await fleet.outcomes()
    print(f"race 29: {facts} failures known, slept 2 s, {len(made) - 1} transitions")
    assert facts == "3"
    assert [one.reason for one in made] == ["seed"]


async def test_a_replica_that_asked_over_a_slow_way_probes_no_sooner(redis_url: str, prefix: str) -> None:
    """A question that was long under way says little of the store's clock: who hears of a trip after it waits longer.

    Else its first ask after the cooldown would be early, the call refused, and the next one a pause later.
    """
    join = joins(redis_url, prefix, policy(FailureCount(3), cooldown=0.2))
    async with join() as a, join() as b:
        await a.succeed()
        await b.succeed()
        b.store.delay("request", 0.08, of="record")
        await b.breakers.flush()
        await a.fail(3)
        await b.sees(State.OPEN)
        await eventually(lambda: not b.breaker.snapshot.remaining, "the cooldown to end")
        probe = await b.breaker.admit()
        assert b.store.count("lease") == 1
        probe.end(Outcome.SUCCESS)


async def test_who_asked_too_early_rests_until_the_cooldown_is_over(redis_url: str, prefix: str) -> None:
    """The store says how long that is; in a large fleet the pause after a refusal is longer."""
    join, key = joins(redis_url, prefix, policy(FailureCount(3), cooldown=2)), f"{prefix}:auth:v1:epoch"
    await crowd(redis_url, prefix)
    async with join(fleet_rate=10) as member:
        await member.succeed()
        await member.fail(3)
        await member.sees(State.OPEN)
        await eventually(lambda: not member.breaker.snapshot.remaining, "the cooldown to end")
        with Redis.from_url(redis_url, decode_responses=True) as redis:
            opened = parse(str(redis.get(key)))
            redis.set(key, replace(opened, until=opened.until + 1).record())
        refused = await member.refused()
        assert 0 < refused.retry_after <= 1
        assert member.breakers._started().rest() > 3
