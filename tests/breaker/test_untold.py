"""Which transitions have been told to a collector, and to whom it falls to tell what a killed maker has not."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from commontrip import Breakers, ConsecutiveFailures, MemoryStore, State, Store
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller, epoch
from tests.breaker.members import joins, policy
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

ANY = (0.0, 3600.0)
"""Ages at which a transition is looked for."""


@pytest.fixture(params=["server", "cluster"])
async def store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[RedisStore]:
    """A store on one server, and one on a cluster."""
    made = RedisStore.from_url(request.getfixturevalue(request.param).url, prefix=prefix)
    yield made
    await made.aclose()


@pytest.fixture
def caller(store: RedisStore) -> Caller:
    """A replica that uses the breaker `auth`."""
    return Caller(store)


async def found(store: Store, ages: tuple[float, float] = ANY, turn: float = 30.0) -> list[str]:
    """Return the epochs of what nobody has told of."""
    return [str(made.epoch) for made in await store.untold("auth", ages, turn)]


async def made(caller: Caller, times: int = 1) -> list[str]:
    """Make so many transitions, wait until the store's clock has moved on, and return their epochs."""
    await caller.seed()
    views = [await caller.change(State.CLOSED) for _ in range(times)]
    await caller.past(views[-1].now)
    return [epoch(view) for view in views]


async def test_what_nobody_told_of_is_found_with_all_that_is_known(caller: Caller) -> None:
    """The transition is what its maker wrote, and a seed is none."""
    await caller.seed()
    opened = await caller.open(cause="00-x-y-01", error="ConnectError", failures=5)
    await caller.past(opened.now)
    assert await caller.store.untold("auth", ANY, 30.0) == [opened.transition]


async def test_there_is_nothing_untold_of_nothing(store: RedisStore) -> None:
    """A breaker that is not there has nothing to tell."""
    assert await found(store) == []


async def test_what_has_been_told_is_not_found(caller: Caller) -> None:
    """Of many transitions those are found, oldest first, that nobody has noted."""
    first, second, third = await made(caller, 3)
    await caller.store.told("auth", [second])
    assert await found(caller.store) == [first, third]


async def test_of_many_who_look_one_is_given_it(caller: Caller) -> None:
    """However many look at once, each transition is told by one."""
    epochs = await made(caller, 2)
    answers = await asyncio.gather(*(found(caller.store) for _ in range(8)))
    assert sorted(one for answer in answers for one in answer) == sorted(epochs)


async def test_whose_turn_is_over_loses_it_to_the_next(caller: Caller) -> None:
    """Who was given a transition and was killed too does not keep it; who has told of it does."""
    epochs = await made(caller)
    assert await found(caller.store, turn=0.02) == epochs
    assert await found(caller.store) == []
    await caller.past((await caller.read()).now + 0.02)
    assert await found(caller.store, turn=0.02) == epochs
    await caller.store.told("auth", epochs)
    await caller.past((await caller.read()).now + 0.02)
    assert await found(caller.store) == []


async def test_only_what_is_old_and_young_enough_is_looked_for(caller: Caller) -> None:
    """A maker has its time, and what is long past is left alone."""
    epochs = await made(caller)
    await caller.past((await caller.read()).now + 0.02)
    assert await found(caller.store, (30.0, 60.0)) == []
    assert await found(caller.store, (0.0, 0.01)) == []
    assert await found(caller.store, (0.01, 60.0)) == epochs


@pytest.mark.parametrize("key", ["v1:told", "transitions"])
async def test_a_spoilt_key_raises_nothing(server: Server, prefix: str, key: str) -> None:
    """A key of a wrong type holds nothing; what says who told is written anew."""
    store = RedisStore.from_url(server.url, prefix=prefix)
    caller = Caller(store)
    epochs = await made(caller)
    server.cli("DEL", f"{prefix}:auth:{key}")
    server.cli("SET", f"{prefix}:auth:{key}", "garbage")
    assert await found(store) == (epochs if key == "v1:told" else [])
    server.cli("SET", f"{prefix}:auth:v1:told", "garbage")
    await store.told("auth", epochs)
    assert await found(store) == []
    await store.aclose()


async def test_entries_that_are_not_ours_are_passed_over(server: Server, prefix: str) -> None:
    """Whatever somebody adds to the stream by hand, the transitions in it are found."""
    store = RedisStore.from_url(server.url, prefix=prefix)
    epochs = await made(Caller(store))
    for entry in (("note", "x"), ("epoch", "x.1.y"), ("epoch", "ab.1.cd"), ("epoch", "ab.0.cd")):
        server.cli("XADD", f"{prefix}:auth:transitions", "*", *entry)
    await Caller(store).past((await Caller(store).read()).now)
    assert await found(store) == epochs
    await store.aclose()


async def test_what_is_told_is_forgotten_in_the_end(server: Server, prefix: str) -> None:
    """The key has a TTL from its first use, and loses what is no longer looked for."""
    store = RedisStore.from_url(server.url, prefix=prefix)
    key = f"{prefix}:auth:v1:told"
    epochs = await made(Caller(store))
    await found(store)
    assert 0 < int(str(server.cli("PTTL", key))) <= 3_600_000
    server.cli("ZADD", key, "1", "ab.1.cd")
    await store.told("auth", epochs)
    assert server.cli("ZRANGE", key, 0, -1) == epochs
    assert 0 < int(str(server.cli("PTTL", key))) <= 3_600_000
    await store.aclose()


async def test_each_is_one_command(proxy: Proxy, prefix: str) -> None:
    """To note is one, to look is one, and one more fetches what was found."""
    store = RedisStore.from_url(proxy.url, prefix=prefix)
    await store.start(lambda *_: None, lambda: None)
    epochs = await made(Caller(store), 3)
    for count, request in ((2, store.untold("auth", ANY, 30.0)), (1, store.untold("auth", ANY, 30.0))):
        proxy.forget()
        await request
        assert proxy.counts.total() == count
    proxy.forget()
    await store.told("auth", epochs)
    assert proxy.counts.total() == 1
    await store.aclose()


async def test_a_store_in_memory_has_nothing_untold() -> None:
    """Who makes a transition there lives as long as it does."""
    store = MemoryStore()
    epochs = await made(Caller(store))
    assert await found(store) == []
    await store.told("auth", epochs)


@pytest.mark.parametrize("memory", [False, True])
async def test_replicas_learn_in_an_order(server: Server, prefix: str, *, memory: bool) -> None:
    """Each is told how many have learned before it, the maker first; nobody of an epoch that is over."""
    store: Any = MemoryStore() if memory else RedisStore.from_url(server.url, prefix=prefix)
    caller = Caller(store)
    first = await caller.seed()
    opened = epoch(await caller.open())
    assert [await store.learned("auth", opened, f"r{n}", 0.01) for n in (2, 3, 3, 4)] == [2, 3, 3, 4]
    assert await store.learned("auth", first, "r5", 0.01) == 0
    assert await store.learned("nobody", first, "r5", 0.01) == 0
    await store.aclose()


async def test_breakers_ask_the_store(server: Server, prefix: str) -> None:
    """What a replica notes and looks for is the fleet's; a name that is none is refused."""
    async with joins(server.url, prefix, policy(ConsecutiveFailures(3)))() as member:
        await member.succeed()
        caller = Caller(member.store, replica="killed")
        opened = await caller.open()
        await caller.past(opened.now)
        untold = await member.breakers.untold("auth", older=0.0, younger=60.0, turn=30.0)
        assert untold == [opened.transition]
        await member.breakers.told("auth", (str(one.epoch) for one in untold))
        assert await found(member.store, turn=0.0) == []
        for ask in (member.breakers.told("a b", []), member.breakers.untold("a b", older=0, younger=1, turn=1)):
            with pytest.raises(ValueError, match="name"):
                await ask


async def test_looks_space_out_in_a_large_fleet(server: Server, prefix: str) -> None:
    """A thousand replicas that look at once are spread, so that the fleet keeps its rate."""
    async with Breakers(RedisStore.from_url(server.url, prefix=prefix), fleet_rate=1_000_000) as breakers:
        await breakers.untold("auth", older=0.0, younger=60.0, turn=30.0)
        breakers._started().fleet = 10_000
        started, waits = time.perf_counter(), []
        for _ in range(10):
            await breakers.untold("auth", older=0.0, younger=60.0, turn=30.0)
            waits.append(time.perf_counter() - started)
            started = time.perf_counter()
    assert max(waits) > 0.01  # up to 10,000 looks at a tenth of a million a second
    assert len(waits) == 10


async def test_who_learns_is_told_its_rank(server: Server, prefix: str) -> None:
    """Listeners hear which in line they were, a little after the transition; who made it does not."""
    start = joins(server.url, prefix, policy(ConsecutiveFailures(3)))
    ranks: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    async with start() as a, start() as b, start() as c:
        for name, member in (("a", a), ("b", b), ("c", c)):
            member.on_learned = lambda _, rank, name=name: ranks[name].append(rank)  # type: ignore[method-assign]
            await member.succeed()
        await a.fail(3)
        await eventually(lambda: len(ranks["b"] + ranks["c"]) == 2, "both to learn")
    assert sorted(ranks["b"] + ranks["c"]) == [2, 3]
    assert ranks["a"] == []
