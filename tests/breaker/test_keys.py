"""What reaches Redis: how many commands, and under which keys."""

import asyncio
import contextlib
import time
from functools import partial

import pytest
from redis.crc import key_slot

from commontrip import Breaker, Breakers, CircuitOpenError, FailureCount, State
from commontrip.redis import RedisStore
from tests.breaker.members import Boom, joins, policy
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENCE, eventually


async def test_t21_calls_cost_no_command_and_a_probe_two(proxy: Proxy, prefix: str) -> None:
    """Closed calls and refusals need nothing of Redis, a probe one command before and one after it."""
    opens = policy(FailureCount(3), probes=4, cooldown=1.0, probe_lease=9.0)
    async with joins(proxy.url, prefix, opens)() as member:
        await member.succeed()
        await quiet(proxy)
        proxy.freeze()
        at = time.monotonic()
        await member.succeed(1000)
        closed = time.monotonic() - at
        proxy.thaw()
        await quiet(proxy)
        proxy.forget()
        at = time.monotonic()
        while time.monotonic() < at + 1:
            await member.succeed(10)
            await asyncio.sleep(0.001)
        busy = proxy.counts.total()
        await member.fail(3)
        await member.sees(State.OPEN)
        proxy.freeze()
        asked = len(member.store.asked)
        for _ in range(1000):
            await member.refused()
        asked = sum(what in {"lease", "read"} for what, _ in member.store.asked[asked:])
        proxy.thaw()
        await eventually(lambda: not member.breaker.snapshot.remaining, "the cooldown to end")
        await member.succeed()
        await quiet(proxy)
        proxy.forget()
        probe = await member.breaker.admit()
        before = dict(proxy.counts)
        probe.returned(None)
        await quiet(proxy)
        both = {command: times for command, times in proxy.counts.items() if command != "MGET"}  # a look may fall here
    print(
        f"T21: 1000 closed calls and 1000 refusals with Redis frozen ({closed * 1e3:.0f} ms);"
        f" a second of calls: {busy} commands; a probe: {before} before, {both} in all"
    )
    assert busy <= 12
    assert asked == 0
    assert before == {"EVALSHA": 1}
    assert both == {"EVALSHA": 2}


async def quiet(proxy: Proxy) -> None:
    """Wait until nothing has crossed for a batch and a half."""
    async with asyncio.timeout(10):
        while True:
            count = proxy.counts.total()
            await asyncio.sleep(0.15)
            if count == proxy.counts.total():
                return


async def test_t21_idle_breakers_cost_nothing(server: Server, prefix: str) -> None:
    """One breaker that is idle and two thousand that are cost the same: no command but the heartbeat."""
    idle = dict(await asyncio.gather(*(_idle(server, prefix, count) for count in (1, 2000))))
    print("T21: commands in an idle second, by number of breakers:", idle)
    assert max(idle.values()) <= 1


async def _idle(server: Server, prefix: str, count: int) -> tuple[int, int]:
    """Use so many breakers once, and return what crosses in a second after the last look at them."""
    async with Proxy(server) as proxy:
        store = RedisStore.from_url(proxy.url, prefix=f"{prefix}-{count}")
        async with Breakers(store) as breakers:
            kept = [breakers.get(f"host-{number}") for number in range(count)]
            await asyncio.gather(*map(_use, kept))
            await breakers.flush()
            await _unused(proxy)
            proxy.forget()
            await asyncio.sleep(1.0)
            return count, proxy.counts.total()


async def _use(breaker: Breaker) -> None:
    while True:  # so many first uses at once may ask for more than the store budget
        with contextlib.suppress(CircuitOpenError):
            async with breaker:
                return


async def _unused(proxy: Proxy) -> None:
    """Wait until a look has found nothing in use."""
    async with asyncio.timeout(10):
        while True:
            count = proxy.counts.total()
            await asyncio.sleep(0.9)
            if count == proxy.counts.total():
                return


_HOSTILE = ["", " ", "a b", "a:b", "auth:state", "{auth}", "a{b}c", "a*", "a\nb", "a\0b", "ü", "a/b", "a" * 201]
_ODD = [
    "auth",
    "Auth",
    "auth.state",
    "auth-1",
    "state",
    "v1",
    "epoch",
    "replicas",
    "events",
    ".",
    "..",
    "-",
    "_",
    "a" * 200,
]


async def test_t22_no_two_breakers_share_a_key(server: Server, prefix: str) -> None:
    """Names that could be read as parts of other keys are refused; of those allowed each is a breaker of its own.

    So they are in two prefixes of which one begins with the other.
    """
    for name in _HOSTILE:
        with pytest.raises(ValueError, match="prefix must be"):
            RedisStore.from_url(server.url, prefix=name)
    stores = [RedisStore.from_url(server.url, prefix=one) for one in (prefix, f"{prefix}.auth")]
    one, another = (Breakers(store, store_budget=PATIENCE) for store in stores)
    async with one as first, another as second:
        for name in _HOSTILE:
            with pytest.raises(ValueError, match="name must be"):
                first.get(name)
        opens = policy(FailureCount(1))
        all_of = [fleet.get(name, opens) for fleet in (first, second) for name in _ODD]
        for number, breaker in enumerate(all_of):
            await _trip(breaker)
            states = [seen.state for seen in await asyncio.gather(*(one.read() for one in all_of))]
            assert states == [State.OPEN] * (number + 1) + [State.CLOSED] * (len(all_of) - number - 1)
    print(f"T22: {len(_HOSTILE)} hostile names refused, {len(all_of)} odd ones kept apart")


async def _trip(breaker: Breaker) -> None:
    with pytest.raises(Boom):
        async with breaker:
            raise Boom
    await eventually(lambda: breaker.state == State.OPEN, f"{breaker.name} to open")


async def test_t22_all_keys_of_a_breaker_share_a_slot(cluster: Cluster, prefix: str) -> None:
    """In a Cluster every breaker lives in one slot, many of them on all nodes, and goes through its states alone."""
    join = joins(cluster.url, prefix, policy(FailureCount(1), cooldown=0.1))
    async with join() as member:
        fleet = member.breakers
        opens = policy(FailureCount(1), cooldown=0.1)
        all_of = [fleet.get(f"host-{number}", opens) for number in range(12)]
        for breaker in all_of:
            async with breaker:
                pass
        for breaker in all_of[::2]:
            await _trip(breaker)
        assert [one.state for one in all_of] == [State.OPEN, State.CLOSED] * 6
        for breaker in all_of[::2]:
            await eventually(partial(_due, breaker), "the cooldown to end")
            async with breaker:
                pass
        await fleet.flush()
        assert {one.state for one in all_of} == {State.CLOSED}
    keys = [key for node in cluster.nodes for key in _keys(node, f"{prefix}:{{*")]
    slots = {name: {key_slot(key.encode()) for key in keys if f"{{{name}}}" in key} for name in _names(all_of)}
    nodes = {cluster.owner(f"{{{name}}}").port for name in _names(all_of)}
    print(f"T22: {len(keys)} keys of {len(slots)} breakers in {len(slots)} slots on {len(nodes)} nodes")
    assert all(len(found) == 1 for found in slots.values())
    assert len(nodes) == 3


def _due(breaker: Breaker) -> bool:
    return not breaker.snapshot.remaining


def _keys(server: Server, pattern: str) -> list[str]:
    found = server.cli("KEYS", pattern)
    return [str(key) for key in found] if isinstance(found, list) else []


def _names(breakers: list[Breaker]) -> list[str]:
    return [breaker.name for breaker in breakers]
