"""Counting: every outcome once, in its own epoch, over the whole fleet."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from commontrip import Counts, FailureCount, FailureRate, Outcome, Override, Policy, State
from tests.breaker.members import Boom, Join, Member, joins, policy
from tests.support.dependency import Dependency
from tests.support.fleet import Fleet, history
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at three failures, for a tenth of a second, and has two probes."""
    return joins(redis_url, prefix, policy(FailureCount(3), probes=2, cooldown=0.1))


@contextlib.asynccontextmanager
async def gathered(count: int, url: str, prefix: str, of: Policy) -> AsyncIterator[list[Member]]:
    """Make so many members of one fleet."""
    async with contextlib.AsyncExitStack() as stack:
        join = joins(url, prefix, of)
        yield [await stack.enter_async_context(join()) for _ in range(count)]


async def counted(member: Member) -> Counts:
    """Return what the store has counted."""
    return (await member.breaker.read()).counts


async def open_and_close(member: Member) -> None:
    """Trip, wait out the cooldown, and close again."""
    await member.fail(3)
    await member.sees(State.OPEN)
    await due(member)
    await member.succeed(2)
    await member.sees(State.CLOSED)


async def due(member: Member) -> None:
    """Wait until the cooldown is over."""
    await eventually(lambda: not member.breaker.snapshot.remaining, "the cooldown to end")


async def test_t04_late_outcomes_change_no_newer_epoch(join: Join) -> None:
    """Calls that were admitted before the circuit opened and closed again count for nothing when they end."""
    async with join() as a, join() as b:
        late = [await a.breaker.admit() for _ in range(5)]
        await b.succeed()
        await open_and_close(b)
        await eventually(lambda: a.epoch == b.epoch, "the other replica to follow")
        for call in late[1:]:
            call.raised(Boom())
        late[0].returned(None)
        await a.fail()
        await a.breakers.flush()
        seen = await b.breaker.read()
        print(f"T4: 5 late outcomes and 1 new one: {seen.counts.calls} counted")
        assert (seen.counts.calls, seen.counts.failures) == (1, 1)
        assert seen.state == State.CLOSED
        assert a.breaker.snapshot.calls[Outcome.FAILURE] == 5


async def test_t04_a_late_probe_changes_no_newer_round(join: Join) -> None:
    """A probe of an earlier round that ends well does not help the next one to close."""
    async with join() as a, join() as b:
        await open_in_both(a, b)
        late = await a.breaker.admit()
        await b.fail()
        await b.sees(State.OPEN)
        await due(b)
        await b.succeed()
        late.end(Outcome.SUCCESS)
        await eventually(lambda: a.store.count("settle") == 1, "the late probe to be settled")
        await a.breakers.flush()
        seen = await b.breaker.read()
        print(f"T4: a late success and 1 of 2 that close: still {seen.state}")
        assert (seen.state, seen.probes_in_flight) == (State.HALF_OPEN, 0)
        await b.succeed()
        await b.sees(State.CLOSED)


async def open_in_both(a: Member, b: Member) -> None:
    """Trip, and wait until both replicas may probe."""
    await a.succeed()
    await b.succeed()
    await a.fail(3)
    await b.sees(State.OPEN)
    await due(a)
    await due(b)


async def test_t04_a_late_trip_changes_no_newer_epoch(join: Join) -> None:
    """A decision to trip that arrives after the circuit has opened and closed again is without effect."""
    async with join() as a, join() as b:
        await b.succeed()
        late = a.store.hold("request", "transition")
        await a.fail(3)
        await late.caught()
        await b.fail()
        await b.sees(State.OPEN)
        await due(b)
        await b.succeed(2)
        await late.release()
        await eventually(lambda: a.epoch == b.epoch, "both to agree")
        await a.succeed()
        assert (await a.breaker.read()).state == State.CLOSED
        reasons = [made.reason for made, _ in await a.breaker.history()]
        print(f"T4: a trip that came two transitions late: {reasons[::-1]}")
        assert reasons.count("tripped") == 1


Image = dict[bytes, tuple[bytes | None, int]]


def image(server: Server, prefix: str) -> Image:
    """Return all keys of the breakers, with their contents and remaining TTLs (ms)."""
    with Redis(port=server.port) as client:
        keys = [key for key in client.keys(f"{prefix}:*") if not key.endswith(b":replicas")]
        return {key: (client.dump(key), client.pttl(key)) for key in keys}


def assert_untouched(before: Image, after: Image) -> None:
    """Assert that no key was made, changed or given more time."""
    assert {key: held for key, (held, _) in after.items()} == {key: held for key, (held, _) in before.items()}
    assert all(after[key][1] <= left for key, (_, left) in before.items())


async def observe(join: Join) -> None:
    """Look at the breaker in all ways there are, as a newcomer."""
    async with join() as newcomer:
        breaker = newcomer.breaker
        assert breaker.state == State.CLOSED
        assert breaker.snapshot.calls[Outcome.SUCCESS] == 0
        await breaker.read()
        await breaker.history()
        await newcomer.breakers.fleet("auth")


async def test_t05_observing_changes_nothing(server: Server, prefix: str, join: Join) -> None:
    """Making a breaker, looking at it, and being refused writes and extends no key, in any state."""
    async with join() as a:
        await a.succeed()
        await a.fail(2)
        await a.breakers.flush()
        await eventually(lambda: a.store.count("presence") > 0, "the heartbeat")
        await asyncio.sleep(_AGE)
        closed = image(server, prefix)
        await observe(join)
        assert_untouched(closed, image(server, prefix))

        await a.breaker.override(Override.FORCED_OPEN, author="t5", reason="to be looked at")
        await a.breakers.flush()
        await asyncio.sleep(_AGE)
        opened = image(server, prefix)
        await observe(join)
        async with join() as b:
            await b.refused()
            assert_untouched(opened, image(server, prefix))

        await a.breaker.override(None, author="t5", reason="to be probed")
        probes = [await a.breaker.admit() for _ in range(2)]
        await a.breakers.flush()
        await asyncio.sleep(_AGE)
        half_open = image(server, prefix)
        await observe(join)
        async with join() as b:
            await b.refused()
            assert_untouched(half_open, image(server, prefix))
        print(f"T5: {len(closed)}, {len(opened)}, {len(half_open)} keys untouched")
        for probe in probes:
            probe.end(Outcome.CANCELLED)


_AGE = 0.1
"""Seconds by which keys are older than what a test does to them: a TTL set anew would show."""


async def test_t05_observing_makes_no_keys(server: Server, prefix: str, join: Join) -> None:
    """A breaker that nobody has used yet has no keys, however often somebody looks."""
    await observe(join)
    assert not image(server, prefix)


async def test_t06_all_failures_count_and_the_threshold_is_exact(server: Server, prefix: str) -> None:
    """Failures of eight processes all count; 19 do not trip at a threshold of 20, the next does, a burst trips once."""
    policies = {
        "all": policy(FailureCount(1000)),
        "exact": policy(FailureCount(20)),
        "burst": policy(FailureCount(20)),
    }
    async with Dependency() as dependency, Fleet(8, dependency) as fleet:
        dependency.fail()
        await fleet.join(server.url, prefix, policies)
        await fleet.do("call", breaker="all", times=20)
        await fleet.do("call", breaker="exact", times=2)
        await fleet.all[0].do("call", breaker="exact", times=3)
        counted = await _counts(fleet, "all", 160), await _counts(fleet, "exact", 19)
        before = [made.state for made in await history(server.url, prefix, "exact")]
        await fleet.all[7].do("call", breaker="exact")
        await fleet.do("call", breaker="burst", times=12)
        trips = [await _trip(server, prefix, breaker) for breaker in ("exact", "burst")]
        arrived = [len(dependency.came(breaker=breaker)) for breaker in policies]
        await fleet.outcomes()

    print(
        f"T6: {counted[0]} of {arrived[0]} failures counted; threshold 20: no trip at {counted[1]},"
        f" trip at {trips[0]}; in a burst of {arrived[2]} at {trips[1]}"
    )
    assert counted == (160, 19)
    assert before == [State.CLOSED]
    assert trips[0] == 20
    assert 20 <= trips[1] <= arrived[2]


async def _counts(fleet: Fleet, breaker: str, expected: int) -> int:
    """Return the failures that the store has counted, once nothing is on its way any more."""
    async with asyncio.timeout(5):
        while True:
            failures: int = await fleet.all[0].do("counted", breaker=breaker)
            if failures >= expected:
                return failures
            await asyncio.sleep(0.02)


async def _trip(server: Server, prefix: str, breaker: str) -> int:
    """Return the failures that tripped a breaker, which it did once."""
    await eventually(lambda: server.cli("GET", f"{prefix}:{breaker}:state") == "OPEN", breaker)
    trips = [made for made in await history(server.url, prefix, breaker) if made.state == "OPEN"]
    assert len(trips) == 1
    return trips[0].failures


async def test_t20_replicas_below_the_minimum_trip_together(redis_url: str, prefix: str) -> None:
    """Ten replicas with four calls each open a circuit that wants twenty calls before it judges."""
    rate = policy(FailureRate(0.5, minimum_calls=20), window=10.0)
    async with gathered(10, redis_url, prefix, rate) as members:
        for member in members:
            await member.succeed(2)
            await member.fail(2)
        await asyncio.gather(*(member.sees(State.OPEN) for member in members))
        (trip, _), *_ = await members[0].breaker.history()
        print(f"T20: {trip.failures} of {trip.calls} calls, none of ten replicas had more than 4")
        assert trip.calls >= 20
        assert trip.reason == "tripped"


async def test_t20_error_rates_trip_within_the_window(redis_url: str, prefix: str) -> None:
    """Error rates of 20 % and 30 %, where 15 % and 25 % are too much, open the circuit within the window."""
    window = 2.0
    said = []
    for rate in (0.2, 0.3):
        limit = policy(FailureRate(rate - 0.05, minimum_calls=20), window=window)
        async with gathered(10, redis_url, f"{prefix}-{rate}", limit) as members:
            failing = random.Random(20)
            async with asyncio.timeout(window):
                await asyncio.gather(*(_call_until_open(one, failing, rate) for one in members))
            (trip, _), *_ = await members[0].breaker.history()
            took = trip.since - trip.previous_since
            said.append(f"{rate:.0%} after {took:.2f} s ({trip.failures} of {trip.calls})")
            assert took <= window
            assert trip.failures >= (rate - 0.05) * trip.calls
    print(f"T20: window {window:g} s:", ", ".join(said))


async def _call_until_open(member: Member, failing: random.Random, rate: float) -> None:
    with contextlib.suppress(Exception):
        while member.breaker.state != State.OPEN:
            await (member.fail if failing.random() < rate else member.succeed)()
            await asyncio.sleep(0.05)


async def test_t20_a_rate_far_below_the_threshold_never_trips(redis_url: str, prefix: str) -> None:
    """Failures never travel ahead of successes: 20 % over fifty slow replicas never look like 50 % (race 27)."""
    rate = policy(FailureRate(0.5, minimum_calls=10), window=10.0)
    async with gathered(50, redis_url, prefix, rate) as members:
        plans = [[(call + one) % 5 == 0 for call in range(10)] for one in range(50)]
        await asyncio.gather(*map(_play, members, plans))
        await asyncio.gather(*(member.breakers.flush() for member in members))
        counts = await counted(members[0])
        made = await members[0].breaker.history()
        print(f"T20: {counts.failures} of {counts.calls} calls failed, {len(made) - 1} transitions")
        assert (counts.calls, counts.failures) == (500, 100)
        assert [one.reason for one, _ in made] == ["seed"]


async def _play(member: Member, plan: list[bool]) -> None:
    for fails in plan:
        await (member.fail if fails else member.succeed)()
        await asyncio.sleep(0.1)
