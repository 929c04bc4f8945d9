"""The registry: one breaker a name, as many as are wanted, none longer than needed."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from commontrip import Breakers, CircuitOpenError, ConsecutiveFailures, Cooldown, MemoryStore, Override, Policy, State
from commontrip.redis import RedisStore
from commontrip.testing import FakeClock, RecordingListener
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENCE, eventually

TRIPS_AT_2 = Policy(trip=ConsecutiveFailures(2), cooldown=Cooldown(30, 1, 30, 0), window=60)


class Boom(Exception):  # noqa: N818 - what the dependency did
    """What the dependency does."""


async def boom() -> None:
    """Fail."""
    raise Boom


async def fail(breakers: Breakers, name: str, times: int = 1) -> None:
    """Let calls fail, and what they did be sent."""
    for _ in range(times):
        with pytest.raises(Boom):
            await breakers.get(name, TRIPS_AT_2).call(boom)
    await breakers.flush()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    """A store on that clock."""
    return MemoryStore(clock=clock)


@pytest.fixture
def heard() -> RecordingListener:
    """What the first replica hears."""
    return RecordingListener()


@pytest.fixture
async def breakers(store: MemoryStore, clock: FakeClock, heard: RecordingListener) -> AsyncIterator[Breakers]:
    """The first replica."""
    async with Breakers(store, clock=clock, listeners=[heard], replica="r1") as started:
        yield started


# -- names and policies


async def test_a_name_is_one_breaker(breakers: Breakers) -> None:
    """Asked for again, also with an equal policy or none, a name is the same breaker."""
    auth = breakers.get("auth", Policy(window=5))
    assert breakers.get("auth") is auth
    assert breakers.get("auth", Policy(window=5)) is auth
    assert breakers.get("other") is not auth
    assert (auth.name, auth.policy, repr(auth)) == ("auth", Policy(window=5), "<Breaker 'auth' CLOSED>")


async def test_finding_makes_nothing(breakers: Breakers) -> None:
    """A breaker can be found if it is there; looking for one makes none."""
    assert breakers.find("auth") is None
    auth = breakers.get("auth")
    assert breakers.find("auth") is auth


async def test_another_policy_for_a_name_is_refused(breakers: Breakers) -> None:
    """Two policies for one name are a ValueError that shows both."""
    auth = breakers.get("auth", Policy(window=5))
    with pytest.raises(ValueError, match=r"breaker 'auth' has another policy already: .*window=5.*, not .*window=6"):
        breakers.get("auth", Policy(window=6))
    assert breakers.get("auth") is auth


@pytest.mark.parametrize("name", ["", "a b", "a:b", "{a}", "a\n", "ä", "a/b", "*", "x" * 201, None, 5])
async def test_a_hostile_name_is_refused(breakers: Breakers, name: Any) -> None:
    """A name that could be part of another's keys is a ValueError that shows it and what is allowed."""
    with pytest.raises(ValueError, match=r"name must be 1 to 200 of A-Z a-z 0-9 \. _ -, not "):
        breakers.get(name)
    with pytest.raises(ValueError, match="name must be 1 to 200 of"):
        await breakers.fleet(name)
    assert list(breakers) == []


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 200, "..", "-"])
async def test_a_proper_name_is_taken(breakers: Breakers, name: str) -> None:
    """Every name of the allowed characters is one."""
    assert await breakers.get(name).call(asyncio.sleep, 0, "through") == "through"


@pytest.mark.parametrize("policy", [5, {"window": 5}, Policy, ConsecutiveFailures(2)])
async def test_what_is_no_policy_is_refused(breakers: Breakers, policy: Any) -> None:
    """What is no policy is a ValueError where the breaker is made."""
    with pytest.raises(ValueError, match="policy"):
        breakers.get("auth", policy)


_WRONG: list[tuple[str, str, list[Any]]] = [
    ("store_budget", "0.001 .* 10", [0, 10.1, float("nan"), "1", True, None]),
    ("fleet_rate", "10 .* 1000000", [9, 1_000_001, float("inf"), "5000"]),
    ("most", "1 to 1000000", [0, 1_000_001, 2.5, True, None]),
    ("replica", "1 to 200 of A-Z", ["a b", "ä", "x" * 201, 5]),
    ("listeners", "Listener", [[5], 5, ["listener"]]),
    ("clock", "callable", [5, None]),
    ("store", "Store", ["redis://localhost", None, MemoryStore]),
]


@pytest.mark.parametrize(
    ("argument", "bounds", "wrong"),
    [
        pytest.param(argument, bounds, value, id=f"{argument}={value!r:.30}")
        for argument, bounds, values in _WRONG
        for value in values
    ],
)
def test_wrong_arguments(argument: str, bounds: str, wrong: Any) -> None:
    """A wrong argument is a ValueError in the constructor that names it, its value and its range."""
    with pytest.raises(ValueError, match=rf"\b{argument}\b.* must be .*{bounds}"):
        Breakers(**{"store": MemoryStore(), argument: wrong})


# -- life


def _uses(breakers: Breakers) -> list[Callable[[], Any]]:
    return [lambda: breakers.get("auth"), lambda: breakers.replica, lambda: breakers.local]


async def test_nothing_works_before_the_start(store: MemoryStore) -> None:
    """Whoever forgets `async with` is told so."""
    breakers = Breakers(store)
    for use in _uses(breakers):
        with pytest.raises(RuntimeError, match="not started: use `async with"):
            use()
    for ask in (breakers.flush, lambda: breakers.fleet("auth")):
        with pytest.raises(RuntimeError, match="not started"):
            await ask()
    assert list(breakers) == []


async def test_entered_twice(breakers: Breakers) -> None:
    """A second entrance into the same object is refused, and the first goes on."""
    with pytest.raises(RuntimeError, match="enter it once"):
        await breakers.__aenter__()
    assert await breakers.get("auth").call(asyncio.sleep, 0, "through") == "through"


async def test_a_start_that_is_cut_short_leaves_nothing(server: Server, proxy: Proxy, prefix: str) -> None:
    """A start that is cancelled leaves no subscription behind, and can be tried again."""
    breakers = Breakers(RedisStore.from_url(proxy.url, prefix=prefix), store_budget=PATIENCE)
    proxy.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), breakers:
            pass
    proxy.thaw()
    assert "commontrip listens" not in {task.get_name() for task in asyncio.all_tasks()}
    async with breakers:
        assert await breakers.get("auth").call(asyncio.sleep, 0, "through") == "through"
    assert server.cli("GET", f"{prefix}:auth:state") == "CLOSED"


async def test_left_breakers_cannot_be_entered_again(store: MemoryStore) -> None:
    """One process enters once: also after leaving."""
    breakers = Breakers(store)
    async with breakers:
        pass
    with pytest.raises(RuntimeError, match="enter it once"):
        await breakers.__aenter__()


async def test_a_breaker_outlives_its_process_quietly(store: MemoryStore, clock: FakeClock) -> None:
    """A call after the end is still decided, by what was known, and changes nothing elsewhere."""
    async with Breakers(store, clock=clock) as breakers:
        auth = breakers.get("auth", TRIPS_AT_2)
        await auth.call(asyncio.sleep, 0)
    before = await store.look(["auth"])
    assert await auth.call(asyncio.sleep, 0, "through") == "through"
    for _ in range(3):
        with pytest.raises((Boom, CircuitOpenError)):
            await auth.call(boom)
    assert await store.look(["auth"]) == before


async def test_leaving_keeps_no_first_call_waiting() -> None:
    """A caller who waits for a new incarnation to be old enough is admitted though its process leaves meanwhile."""
    async with Breakers(MemoryStore(), store_budget=PATIENCE) as breakers:
        auth = breakers.get("auth")
        first = asyncio.create_task(auth.call(asyncio.sleep, 0, "first"))
        await eventually(lambda: auth.snapshot.transition is not None, "the incarnation to be made")
    async with asyncio.timeout(5):
        assert (await first, await auth.call(asyncio.sleep, 0, "later")) == ("first", "later")


async def test_who_has_left_hears_nothing_more(store: MemoryStore, clock: FakeClock, breakers: Breakers) -> None:
    """A replica that has left is told of nothing, also when it shared its store with those who go on."""
    heard = RecordingListener()
    async with Breakers(store, clock=clock, listeners=[heard]) as left:
        kept = left.get("auth", TRIPS_AT_2)
        await kept.call(asyncio.sleep, 0)
    await fail(breakers, "auth", 2)
    assert breakers.get("auth").state is State.OPEN
    assert (heard.transitions, kept.state) == ([], State.CLOSED)


async def test_leaving_sends_what_waits(store: MemoryStore, clock: FakeClock, breakers: Breakers) -> None:
    """What was counted is sent before the end, and what follows from it is decided."""
    auth = breakers.get("auth", TRIPS_AT_2)
    async with Breakers(store, clock=clock, replica="leaving") as leaving:
        for _ in range(2):
            with pytest.raises(Boom):
                await leaving.get("auth", TRIPS_AT_2).call(boom)
    await eventually(lambda: auth.state is State.OPEN or not auth.snapshot.epoch, "the transition to be heard")
    assert (await store.look(["auth"]))[0][0] == "OPEN"


# -- many


async def test_the_registry_is_bounded(store: MemoryStore, clock: FakeClock) -> None:
    """Breakers beyond `most` that nobody holds are forgotten, the longest unasked first."""
    async with Breakers(store, clock=clock, most=2) as breakers:
        held = breakers.get("held")
        for name in ("a", "b", "a", "c"):
            breakers.get(name)
        gc.collect()
        assert [breaker.name for breaker in breakers] == ["a", "c", "held"]
        assert breakers.get("held") is held


async def test_a_breaker_with_news_is_not_forgotten(store: MemoryStore, clock: FakeClock) -> None:
    """What a forgotten breaker has counted is sent all the same."""
    async with Breakers(store, clock=clock, most=1) as breakers:
        with pytest.raises(Boom):
            await breakers.get("a", TRIPS_AT_2).call(boom)
        breakers.get("b")
        gc.collect()
        await breakers.flush()
        assert (await breakers.get("a", TRIPS_AT_2).read()).counts.failures == 1


async def test_half_a_ttl_of_silence(clock: FakeClock) -> None:
    """Then a breaker that nobody holds leaves nothing behind, and one that is held reads before its next call."""
    store = MemoryStore()  # for it less time passes: it forgets what the test says
    async with Breakers(store, clock=clock, most=1) as breakers:
        kept = breakers.get("kept", TRIPS_AT_2)
        await fail(breakers, "kept")
        store.forget("kept")
        gone = []
        for n in range(4):
            await fail(breakers, f"host-{n}")
            gone.append(weakref.ref(breakers.get(f"host-{n}")))
        breakers.get("another")

        def collected() -> bool:
            clock.advance(store.ttl)
            gc.collect()
            return not any(reference() for reference in gone)

        await eventually(collected, "the breakers to be collected")
        await fail(breakers, "kept")
        assert (await kept.read()).counts.failures == 1
        await fail(breakers, "host-3")  # it comes back and goes on where the fleet is
        with pytest.raises(CircuitOpenError):
            await breakers.get("host-3").call(boom)


async def test_what_was_only_looked_at_grows_old_too(clock: FakeClock) -> None:
    """A breaker that was read and not called reads again before its first call, once half a TTL is over."""
    store = MemoryStore(clock=clock)
    async with Breakers(store, clock=clock) as other, Breakers(store, clock=clock, store_budget=PATIENCE) as breakers:
        await fail(other, "auth")
        auth = breakers.get("auth", TRIPS_AT_2)
        assert (await auth.read()).counts.failures == 1
        replica = auth._circuit.replica
        await eventually(lambda: not replica.uses(auth._circuit), "the read to be over")
        clock.advance(store.ttl)
        await eventually(lambda: auth._circuit.gate is None, "half a TTL to be over")
        store.forget("auth")
        await fail(breakers, "auth")
        assert (await auth.read()).counts.failures == 1


async def test_breakers_are_iterated_by_name(breakers: Breakers) -> None:
    """Whoever iterates sees all breakers that live, in the order of their names."""
    held = [breakers.get(name) for name in ("c", "a", "b")]
    assert [breaker.name for breaker in breakers] == ["a", "b", "c"]
    assert len(held) == 3


# -- the fleet


async def test_a_replica_has_a_name(store: MemoryStore, breakers: Breakers) -> None:
    """A replica's name is the given one, else made of host and process, different for each."""
    assert breakers.replica == "r1"
    async with Breakers(store) as one, Breakers(store) as other:
        assert one.replica != other.replica
        async with asyncio.timeout(5):
            while set(await breakers.fleet("auth")) != {"r1", one.replica, other.replica}:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)


async def test_replicas_in_one_process_are_one_fleet(
    store: MemoryStore, clock: FakeClock, breakers: Breakers, heard: RecordingListener
) -> None:
    """On one memory store what opens at one replica is open at the other, and one of them made it."""
    async with Breakers(store, clock=clock, replica="r2") as others:
        other = others.get("auth", TRIPS_AT_2)
        await other.call(asyncio.sleep, 0)
        await fail(breakers, "auth", 2)
        assert other.state is State.OPEN
        with pytest.raises(CircuitOpenError):
            await other.call(boom)
    assert [(applied.made, applied.transition.replica) for applied in heard.transitions] == [(True, "r1")]


async def test_local_says_whether_the_store_is_away(breakers: Breakers) -> None:
    """A memory store is never away."""
    await breakers.get("auth").call(asyncio.sleep, 0)
    assert not breakers.local


async def test_an_order_reaches_every_breaker_of_the_name(
    store: MemoryStore, clock: FakeClock, breakers: Breakers
) -> None:
    """An override at one replica holds at all."""
    async with Breakers(store, clock=clock, replica="r2") as others:
        other = others.get("auth")
        await other.call(asyncio.sleep, 0)
        await breakers.get("auth").override(Override.FORCED_OPEN, author="ann", reason="test")
        assert other.snapshot.override is Override.FORCED_OPEN
        with pytest.raises(CircuitOpenError):
            await other.call(asyncio.sleep, 0)
