"""The store may be slow, frozen, gone, empty or old: callers hardly notice, and the fleet agrees again."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from redis import Redis

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    FailureCount,
    MemoryStore,
    Outcome,
    Policy,
    State,
    SuccessRatio,
)
from commontrip._store import Ask, Batch, View
from commontrip.redis import RedisStore
from tests.breaker.members import Boom, joins, policy
from tests.support.dependency import Arrival, Dependency, Order
from tests.support.fleet import Fleet, history
from tests.support.servers import Server
from tests.support.waiting import eventually

Start = Callable[..., Server]


async def test_t11_without_redis_the_verdict_is_held_then_each_replica_protects(
    fresh_server: Start, prefix: str
) -> None:
    """Without Redis an open circuit stays open until its deadline; then each replica has the probes of the policy.

    Callers see no store error, and an empty Redis that comes back is told what the replicas know.
    """
    server, cooldown, probes = fresh_server(), 1.5, 2
    opens = Policy(
        trip=ConsecutiveFailures(5),
        recover=SuccessRatio(1.0, probes),
        cooldown=Cooldown(cooldown, 2, 10, 0),
    )
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.fail()
        await fleet.join(server.url, prefix, {"auth": opens})
        await fleet.do("traffic", breaker="auth", callers=10)
        await fleet.all_see("auth", "OPEN")
        trip = (await history(server.url, prefix, "auth"))[-1]
        await asyncio.sleep(0.2)
        killed = time.time()
        server.kill()
        deadline = trip.since + cooldown
        dependency.orders = lambda _: Order("fail", 0.1)
        await eventually(
            lambda: len({one.replica for one in dependency.came(since=killed)}) == 8,
            "each replica to probe by itself",
        )
        await asyncio.sleep(0.5)
        alone = dependency.came(since=killed)
        await asyncio.to_thread(server.start)
        await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "it to know")
        told = time.time()
        again = [one for one in dependency.came(since=killed) if one not in alone]
        dependency.ok()
        await fleet.all_see("auth", "CLOSED")
        reports = Counter(one.kind for process in fleet.all for one in process.reports)
        reasons = [made.reason for made in await history(server.url, prefix, "auth")]
        outcomes = await fleet.outcomes()

    by_replica = Counter(one.replica for one in alone)
    print(
        f"T11: none in the {deadline - killed:.2f} s to the deadline, then {len(alone)} calls in all, at most"
        f" {max(by_replica.values())} of {probes} a replica; {dict(outcomes)}; back: {reasons[:2]}"
    )
    assert min(one.at for one in alone) >= deadline
    assert max(by_replica.values()) <= probes
    assert not again
    assert told - killed < 10
    assert reports["local_mode"] >= 8
    assert reasons[0] == "local"
    assert set(outcomes) <= {"ok", "failed", "refused"}


async def test_t12_a_service_starts_without_redis_and_joins_later(fresh_server: Start, prefix: str) -> None:
    """With no Redis a replica starts within a second, protects itself, returns what calls return, and joins later."""
    server = fresh_server()
    server.kill()
    opens = policy(FailureCount(3), cooldown=0.5)
    ran = 0

    async def ask(answer: int) -> int:
        nonlocal ran
        ran += 1
        if answer < 0:
            raise Boom(answer)
        return answer

    at = time.monotonic()
    async with Breakers(RedisStore.from_url(server.url, prefix=prefix)) as breakers:
        started = time.monotonic() - at
        breaker = breakers.get("auth", opens)
        assert await _patiently(breaker, ask, 42) == 42
        for number in (-1, -2, -3):
            with pytest.raises(Boom, match=str(number)):
                await breaker.call(ask, number)
        await eventually(lambda: breaker.state == State.OPEN, "it to open by itself")
        before = ran
        with pytest.raises(CircuitOpenError):
            await breaker.call(ask, 42)
        assert (breaker.snapshot.local, ran) == (True, before)

        await asyncio.to_thread(server.start)
        async with asyncio.timeout(5):
            while breaker.snapshot.local or breaker.state != State.CLOSED:
                with contextlib.suppress(CircuitOpenError):
                    assert await breaker.call(ask, 7) == 7
                await asyncio.sleep(0.02)
        async with joins(server.url, prefix, opens)() as other:
            await other.fail(3)
            await eventually(lambda: breaker.state == State.OPEN, "it to hear of the other's trip")
        assert not breaker.snapshot.local
    print(f"T12: started in {started * 1000:.0f} ms without Redis")
    assert started < 1


async def _patiently(breaker: Breaker, ask: Callable[[int], object], answer: int) -> object:
    """Call until the store has been given up; meanwhile a first use may only be refused."""
    async with asyncio.timeout(2):
        while True:
            with contextlib.suppress(CircuitOpenError):
                return await breaker.call(ask, answer)  # type: ignore[arg-type]
            await asyncio.sleep(0.01)


async def test_t13_a_flush_in_half_open_lets_no_more_probes_through(fresh_server: Start, prefix: str) -> None:
    """FLUSHALL while all probes run lets no further one run beside them, however long they take (race 17)."""
    server, lease = fresh_server(), 1.0
    opens = Policy(
        trip=ConsecutiveFailures(5),
        recover=SuccessRatio(1.0, 3),
        cooldown=Cooldown(0.1, 1, 0.1, 0),
        probe_lease=lease,
    )
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.orders = lambda one: Order("fail") if one.state == State.CLOSED else Order(delay=math.inf)
        await fleet.join(server.url, prefix, {"auth": opens})
        await fleet.do("traffic", breaker="auth", callers=10)
        for leases in (0.7, 1.6):
            await _all_running(dependency, 3)
            server.flush()
            await asyncio.sleep(leases * lease)
            peak = dependency.peaks["HALF_OPEN"]
            dependency.release("fail")
        await _all_running(dependency, 3)
        dependency.ok()
        dependency.release()
        await fleet.all_see("auth", "CLOSED")
        made = await history(server.url, prefix, "auth")
        await fleet.outcomes()
    print(f"T13: twice FLUSHALL in HALF_OPEN: at most {peak} of 3 probes at once, {[one.reason for one in made]}")
    assert peak == 3
    assert dependency.peaks["HALF_OPEN"] == 3


async def _all_running(dependency: Dependency, probes: int) -> None:
    await eventually(lambda: len(dependency.in_flight(state="HALF_OPEN")) == probes, "all probes to run")


async def test_t13_a_flush_while_open_lets_a_newborn_make_no_call(fresh_server: Start, prefix: str) -> None:
    """After FLUSHALL of an open circuit a newborn that asks first gets no call through (race 18).

    What the others remember is in force again, whether they have just used it or not for a while.
    """
    server, flushes = fresh_server(), 6
    opens = policy(FailureCount(5), cooldown=60.0)
    async with Dependency() as dependency, Fleet(8 + flushes, dependency) as fleet:
        dependency.fail()
        old, newborn = fleet.all[:8], fleet.all[8:]
        await asyncio.gather(*(fleet.enter(one, server.url, prefix, {"auth": opens}) for one in fleet.all))
        await asyncio.gather(*(one.do("call", breaker="auth") for one in old))
        await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "the trip")
        before = len(dependency.arrivals)
        outcomes: Counter[str] = Counter()
        for process in newborn:
            if process is newborn[-1]:
                await asyncio.sleep(2 * 0.9)  # two looks: nobody uses it any more
            server.flush()
            answer = await process.do("call", breaker="auth", times=50)
            outcomes.update(answer["outcomes"])
            await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "OPEN")
        leaked = len(dependency.arrivals) - before
        (made,) = (await history(server.url, prefix, "auth"))[-1:]
        await fleet.outcomes()
    print(f"T13: {flushes} times FLUSHALL, then 50 calls of a newborn: {leaked} got through, {dict(outcomes)}")
    assert leaked == 0
    assert outcomes == {"refused": 50 * flushes}
    assert made.reason == "reasserted"


async def test_t13_news_that_overtakes_a_newborns_first_answer_is_not_lost(fresh_server: Start, prefix: str) -> None:
    """A re-assertion that reaches a newborn before the answer to its own first read is not lost (race 18)."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(FailureCount(1), cooldown=60.0))
    async with join() as old, join() as newborn:
        await old.succeed()
        await old.fail()
        await old.sees(State.OPEN)
        server.flush()
        answer = newborn.store.hold("reply", "read")
        first = asyncio.create_task(newborn.refused())
        await answer.caught()
        await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "OPEN")
        await answer.release()
        await first
        await newborn.sees(State.OPEN)
        print(f"T13: overtaken by the news: refused {first.result().retry_after:.1f} s")


async def test_t13_an_old_decision_does_not_apply_to_a_new_incarnation(fresh_server: Start, prefix: str) -> None:
    """A trip that was decided before FLUSHALL and arrives after it opens nothing."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(FailureCount(3)))
    async with join() as old, join() as newborn:
        await old.succeed()
        late = old.store.hold("request", "transition")
        await old.fail(3)
        await late.caught()
        server.flush()
        await newborn.succeed()
        await late.release()
        await eventually(lambda: old.epoch == newborn.epoch, "both to agree")
        await old.succeed()
        made = [one.reason for one, _ in await newborn.breaker.history()]
        print(f"T13: an old trip after FLUSHALL: {made}")
        assert made == ["seed"]
        assert newborn.breaker.state == State.CLOSED


async def test_t13_a_failover_that_lost_writes_is_told_what_it_lost(fresh_server: Start, prefix: str) -> None:
    """Keys from before the trip, as a failover brings, are told within a second that it is open (race 19)."""
    server = fresh_server()
    opens = policy(FailureCount(5), cooldown=60.0)
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        await fleet.join(server.url, prefix, {"auth": opens})
        await fleet.do("call", breaker="auth")
        copy = _copy(server, prefix)
        dependency.fail()
        await fleet.do("call", breaker="auth")
        await fleet.all_see("auth", "OPEN")
        known = await history(server.url, prefix, "auth")
        await fleet.do("traffic", breaker="auth", callers=5)
        before = len(dependency.arrivals)
        _restore(server, copy)
        restored = time.time()
        await eventually(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "OPEN")
        (made,) = (await history(server.url, prefix, "auth"))[-1:]
        await fleet.do("stop")
        leaked = len(dependency.arrivals) - before
        await fleet.outcomes()
    used = [one.epoch.number for one in known]
    print(
        f"T13: keys from before the trip: open again {made.since - restored:.2f} s later as number"
        f" {made.epoch.number} after {used}, {leaked} calls got through"
    )
    assert made.since - restored <= 1.0
    assert made.reason == "reasserted"
    assert made.epoch.incarnation == known[0].epoch.incarnation
    assert made.epoch.number not in used
    assert leaked == 0


def _copy(server: Server, prefix: str) -> dict[bytes, tuple[bytes, int]]:
    with Redis(port=server.port) as client:
        keys = client.keys(f"{prefix}:auth:*")
        return {key: (client.dump(key), client.pttl(key)) for key in keys}


def _restore(server: Server, copy: dict[bytes, tuple[bytes, int]]) -> None:
    with Redis(port=server.port) as client, client.pipeline() as pipe:
        pipe.flushall()
        for key, (held, left) in copy.items():
            pipe.restore(key, left, held)
        pipe.execute()


async def test_t14_a_frozen_redis_delays_no_call_beyond_the_budget(fresh_server: Start, prefix: str) -> None:
    """While Redis is frozen, and on the way to local mode and back, no call waits beyond the budget, in any state.

    Measured, before and after the guarded function, against a sleep of the same length in the same loop.
    """
    server, budget = fresh_server(), 0.05
    opens = Policy(
        trip=ConsecutiveFailures(3),
        recover=SuccessRatio(1.0, 2),
        cooldown=Cooldown(0.2, 1, 0.2, 0),
    )
    policies = {"closed": opens, "half": opens, "fresh": opens, "open": policy(FailureCount(1))}

    def order(arrival: Arrival) -> Order:
        if arrival.breaker == "half":
            return Order(delay=math.inf) if arrival.state == State.HALF_OPEN else Order("fail")
        return Order("fail" if arrival.breaker == "open" else "ok")

    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.orders = order
        await fleet.join(server.url, prefix, policies, store_budget=budget)
        for breaker in ("closed", "half", "open"):
            await fleet.do("traffic", breaker=breaker, callers=4, pause=0.01, timed=True)
        await eventually(lambda: len(dependency.in_flight(breaker="half")) == 2, "two probes")
        await fleet.do("tell")
        server.freeze()
        await fleet.do("traffic", breaker="fresh", callers=4, pause=0.01, timed=True)
        dependency.release("fail")
        await asyncio.sleep(1.0)
        server.thaw()
        await asyncio.sleep(1.0)
        told = await fleet.do("tell")
        local = [one for process in fleet.all for one in process.reports if one.kind == "local_mode"]

    slowest: Counter[str] = Counter()
    late: Counter[str] = Counter()
    for answer in told:
        assert not answer["strange"]
        late.update(answer["late"])
        for what, took in answer["slowest"].items():
            slowest[what] = max(slowest[what], took)
    said = ", ".join(f"{what} {took * 1000:.1f}" for what, took in sorted(slowest.items()))
    print(f"T14: longest wait (ms), budget {budget * 1000:g} ms and the loop's own lag: {said}")
    assert {"CLOSED before", "OPEN before", "HALF_OPEN before", "HALF_OPEN after"} <= set(slowest)
    assert sum(late.values()) == 0
    assert local


class _Careful(MemoryStore):
    """Takes half a millisecond over each breaker."""

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        await asyncio.sleep(len(asks) / 2000)
        return await super().read(asks)

    async def record(self, batches: Sequence[Batch]) -> list[View]:
        await asyncio.sleep(len(batches) / 2000)
        return await super().record(batches)


async def test_no_number_of_breakers_is_too_large_a_question() -> None:
    """With 1,500 breakers in use no outcome is late, no store that works is taken for gone, and all come home."""
    async with Breakers(_Careful()) as breakers:
        replica = breakers._started()
        many = [breakers.get(f"host-{number}", policy(FailureCount(9))) for number in range(1500)]
        await asyncio.wait([asyncio.ensure_future(breaker._circuit.knowledge.reread()) for breaker in many])
        for breaker in many:
            (await breaker.admit()).end(Outcome.FAILURE)
        await breakers.flush()
        assert not breakers.local
        assert {breaker.snapshot.counts.failures for breaker in many} == {1}

        replica.line.down = True
        for breaker in many:
            breaker._circuit.knowledge.go_local()
            (await breaker.admit()).end(Outcome.SUCCESS)
        await eventually(lambda: not any(breaker.snapshot.local for breaker in many), "all to be back", within=10)
        assert not breakers.local
