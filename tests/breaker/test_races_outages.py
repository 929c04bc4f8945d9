"""Races between a replica and a store that is slow, silent, full or gone."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    Outcome,
    Override,
    State,
    StoreUnavailableError,
)
from commontrip._calls import Call
from commontrip.redis import RedisStore
from tests.breaker.members import Join, Member, forget, joins, policy
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.unreliable_store import UnreliableStore
from tests.support.waiting import eventually

OBEYED = 1.0
"""Seconds within which a replica in use obeys a SET by hand."""


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at one failure, for long."""
    return joins(redis_url, prefix, policy(ConsecutiveFailures(1)))


async def outage(member: Member) -> None:
    """Let the store fall silent, and wait until the replica decides alone."""
    member.store.cut = True
    await member.insists(lambda: member.breakers.local, "the store to be taken for gone")


async def test_race_33_a_store_that_refuses_writes_is_away(fresh_server: Callable[..., Server], prefix: str) -> None:
    """Race 33: where reads work and writes do not, the replica's own breaker protects, with one budget a round."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(ConsecutiveFailures(1), probes=3, cooldown=0.05, probe_lease=5))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        server.config("maxmemory", 1)
        await a.fail()
        await a.sees(State.OPEN)
        probes = await a.admitted(2.0)
        assert (len(probes), a.breaker.snapshot.local) == (3, True)
        for probe in probes:
            probe.end(Outcome.SUCCESS)
        await a.sees(State.CLOSED)
        assert a.breaker.snapshot.local
        server.config("maxmemory", 0)
        await a.insists(lambda: not a.breaker.snapshot.local, "the way back")
        assert a.reported("shared_mode") == 1


async def test_a_store_that_refuses_writes_lets_a_slow_round_end(
    fresh_server: Callable[..., Server], prefix: str
) -> None:
    """Race 33: a local round remembers its probes over several looks at such a store."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=5))
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        server.config("maxmemory", 1)
        await a.fail()
        await a.sees(State.OPEN)
        first, second = await a.admitted(1.0)
        first.end(Outcome.SUCCESS)
        await asyncio.sleep(1.0)
        second.end(Outcome.SUCCESS)
        await a.sees(State.CLOSED)


async def test_race_34_only_what_is_used_goes_home(redis_url: str, prefix: str) -> None:
    """Race 34: after an outage only the breakers in use are read, however many were used during it."""
    store = UnreliableStore(RedisStore.from_url(redis_url, prefix=prefix))
    async with Breakers(store) as breakers:
        hosts = [breakers.get(f"host-{n}", policy(FailureCount(100))) for n in range(300)]
        await use(hosts)
        store.cut = True
        await use(hosts)
        await eventually(lambda: all(host.snapshot.local for host in hosts), "all to decide alone")
        looks = store.count("presence")
        await eventually(lambda: store.count("presence") > looks + 1, "two looks without use")
        store.mend()
        asked = len(store.asked)
        await use(hosts[7:8])
        await eventually(lambda: not hosts[7].snapshot.local, "the way back")
        await use(hosts[7:8])
        await eventually(lambda: "look" in [what for what, _ in store.asked[asked:]], "a look")
        assert [[ask.name for ask in asks] for what, asks in store.asked[asked:] if what == "read"] == [["host-7"]]


async def test_a_verdict_that_nobody_uses_is_told_to_a_store_that_forgot_it(
    fresh_server: Callable[..., Server], prefix: str
) -> None:
    """Race 34: a replica that remembers an open circuit tells it to a Redis that comes back empty, without any call."""
    server = fresh_server()
    join = joins(server.url, prefix, policy(ConsecutiveFailures(1)))
    async with join() as a:
        await a.fail()
        await a.sees(State.OPEN)
        server.kill()
        await eventually(lambda: a.breakers.local, "the store to be taken for gone")
        assert a.breaker.snapshot.local
        server.start()
        await eventually(lambda: not a.breaker.snapshot.local, "the way back")
        async with join() as newcomer:
            await newcomer.refused()
            assert newcomer.breaker.snapshot.transition.reason == "reasserted"


async def use(hosts: list[Breaker]) -> None:
    """Make one call of each, all at once, and send what there is to send."""

    async def one(host: Breaker) -> None:
        while True:
            with contextlib.suppress(CircuitOpenError):
                async with host:
                    return
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(one, hosts))


async def test_race_35_a_burst_of_first_uses_is_no_outage(server: Server, prefix: str) -> None:
    """Race 35: 300 breakers used for the first time at once, over a slow line, are all admitted in the end."""
    async with Proxy(server) as proxy:
        proxy.delay = 0.02
        async with Breakers(RedisStore.from_url(proxy.url, prefix=prefix)) as breakers:
            hosts = [breakers.get(f"host-{n}") for n in range(300)]
            calls = await asyncio.gather(*(host.admit() for host in hosts), return_exceptions=True)
            assert not breakers.local
            refused = [call for call in calls if not isinstance(call, Call)]
            assert all(isinstance(one, CircuitOpenError) for one in refused)
            await eventually(lambda: all(host.snapshot.transition for host in hosts), "all to be read")
            assert not breakers.local
            assert len(await asyncio.gather(*(host.admit() for host in hosts))) == 300


async def test_one_answer_that_never_comes_is_no_outage(join: Join) -> None:
    """A request that hangs, while others are answered, does not make the store one that is away."""
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        held = a.store.hold("reply", "record")
        await a.succeed()
        await held.caught()
        while a.store.count("record") < 3:
            await a.breaker.read()
            assert not a.breakers.local


async def test_who_only_looks_says_nothing_of_the_store(join: Join) -> None:
    """A store that refuses those who look is not taken for gone: the replica stays with its fleet."""
    async with join() as a:
        await a.succeed()
        for operation, look in (
            ("history", a.breaker.history),
            ("fleet", lambda: a.breakers.fleet("auth")),
            ("read", a.breaker.read),
        ):
            a.store.refuse(1, of=operation)
            with contextlib.suppress(StoreUnavailableError):
                await look()
            assert not a.breakers.local, operation
        assert not a.store.faulty


async def test_a_set_after_another_answer_is_obeyed_within_a_second(join: Join, server: Server, prefix: str) -> None:
    """SET by hand is obeyed within a second, also when the store has just answered something else."""
    async with join() as a:
        await a.open()
        looks = a.store.count("look")
        await a.insists(lambda: a.store.count("look") > looks, "a look")
        await a.breaker.read()
        await obeys(a, server, prefix)


async def test_a_set_after_a_silence_is_obeyed_within_a_second(join: Join, server: Server, prefix: str) -> None:
    """SET by hand is obeyed within a second, also when the store was silent for a while before it."""
    async with join() as a:
        await a.open()
        await outage(a)
        a.store.cut = False
        await obeys(a, server, prefix)


async def obeys(member: Member, server: Server, prefix: str) -> None:
    """SET the state by hand, and see it obeyed in time."""
    server.cli("SET", f"{prefix}:auth:state", "CLOSED")
    at = asyncio.get_running_loop().time()
    await member.insists(lambda: member.breaker.state == State.CLOSED, "the SET to be obeyed")
    assert asyncio.get_running_loop().time() - at < OBEYED


async def test_an_idle_replica_finds_the_store_again(join: Join) -> None:
    """A replica that nobody uses after an outage is back in the fleet when the store is."""
    async with join() as a:
        await a.succeed()
        await outage(a)
        await eventually(lambda: a.store.silence("presence") < 0.1, "a look")
        a.store.mend()
        await eventually(lambda: not a.breakers.local, "the store to be found")


async def test_probes_that_run_fill_the_local_budget(redis_url: str, prefix: str) -> None:
    """When the store goes in the middle of a round the probes that run are the replica's local budget."""
    join = joins(redis_url, prefix, policy(ConsecutiveFailures(1), probes=2, cooldown=0.05, probe_lease=0.3))
    async with join() as a:
        await a.half_open()
        assert len(await a.admitted(0.2)) == 2
        a.store.refuse(1_000_000)
        assert await a.admitted(0.7) == []
        assert a.breaker.snapshot.local


async def test_calls_that_count_for_nothing_are_use(join: Join, server: Server, prefix: str) -> None:
    """A SET by hand is obeyed also by a replica whose callers all leave: that is use of the breaker too."""
    async with join() as a:
        await a.succeed()
        await eventually(lambda: not used(a), "the first use to be forgotten")
        leaving = asyncio.create_task(leave(a))
        await eventually(lambda: used(a), "the breaker to be in use")
        server.cli("SET", f"{prefix}:auth:state", "OPEN")
        await eventually(lambda: a.breaker.state == State.OPEN, "the SET to be obeyed")
        leaving.cancel()


async def test_keys_lost_while_nothing_counts_are_written_again(join: Join, server: Server, prefix: str) -> None:
    """A breaker that passes calls under DISABLED is in use: its keys, once deleted, come back."""
    async with join() as a:
        await a.breaker.override(Override.DISABLED, author="ann", reason="tests the brakes")
        await eventually(lambda: not used(a), "the order to be forgotten")
        forget(server, prefix)
        await a.insists(lambda: server.cli("GET", f"{prefix}:auth:state") == "CLOSED", "the keys to come back")
        assert (await a.breaker.read()).override == Override.DISABLED


def used(member: Member) -> bool:
    """Whether the breaker counts as in use."""
    return member.breaker._circuit.replica.uses(member.breaker._circuit)


async def leave(member: Member) -> None:
    """Make calls whose callers all leave."""
    while True:
        (await member.breaker.admit()).end(Outcome.CANCELLED)
        await asyncio.sleep(0.02)
