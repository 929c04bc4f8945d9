"""The fallback's memory in bad luck: clocks that change, a memory that is full, a Redis that comes back with less."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from math import inf

import pytest

from apps.profile.clock import StoreClock
from apps.profile.entry import Entry, Question
from apps.profile.known import Answer, Known, served
from apps.shared.redis import AWAY
from tests.apps.memories import ADMIN, READER, Local, Memories, roles, shelf_on, starter, written
from tests.support.cluster import Cluster
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
def replica(stack: AsyncExitStack, redis_url: str, prefix: str) -> Memories:
    """Start memories of replicas."""
    return starter(stack, redis_url, prefix)


def asked(clock: StoreClock) -> Question:
    """A question asked now."""
    return Question(clock.local(), clock.last)


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_failover_to_another_clock_loses_no_refusal(hours: int) -> None:
    """A refusal under the clock of another Redis replaces what was dated by the clock of the one that is gone."""
    local = Local()
    clock = StoreClock(local)
    entry = Entry(clock)
    clock.heard(local(), 1e9)
    entry.note(asked(clock), ADMIN, inf)
    assert [one.roles for one in entry.there] == [ADMIN]
    local.ahead = 10
    clock.heard(local(), 1e9 + 3600 * hours)
    local.ahead = 20
    entry.note(asked(clock), None, inf)
    assert [one.roles for one in entry.there] == [None]
    local.ahead = 30
    entry.note(asked(clock), READER, inf)
    found = served(entry.there, 1e9 + 3600 * hours + 25, 300)
    assert found
    assert found[0] == READER
    assert 4 < found[1] < 7


def test_slow_exchanges_are_no_other_clock() -> None:
    """Exchanges that take their time, however unevenly, are not taken for a change of clock."""
    local = Local()
    clock = StoreClock(local)
    for there, back in ((0.0, 0.9), (0.9, 0.0), (0.0, 0.0), (0.4, 0.4)):
        sent = local()
        local.ahead += there
        said = 1e9 + local()
        local.ahead += back
        clock.heard(sent, said)
    assert clock.changes == 1


async def test_no_question_is_dated_in_the_future(stack: AsyncExitStack, redis_url: str, prefix: str) -> None:
    """What a replica dates by a clock that is gone is written down as asked now at the latest."""
    shelf = shelf_on(redis_url, prefix, StoreClock(time.monotonic))
    stack.push_async_callback(shelf.aclose)
    ahead = time.time() + 3600
    known, now = await shelf.exchange("ada", (Answer(ADMIN, ahead, ahead + 1),))
    assert known[0].asked <= now
    known, now = await shelf.exchange("ada", (Answer(None, now + 0.001, now + 1),))
    known, _ = await shelf.exchange("ada", (Answer(READER, now + 2, now + 3),))
    assert ADMIN not in [one.roles for one in known]


async def test_full_memory_forgets_nothing_unwritten(replica: Memories) -> None:
    """A refusal that waits for Redis is not pushed out by other users; once it is written, it goes with its turn."""
    other = await replica()
    other.learn("ada", other.ask(), ADMIN)
    await written(other)
    memory = await replica(users=3)
    memory._away = memory._trying = True  # it is away, and nobody tries
    late = memory.ask()
    await memory.refuse("ada", memory.ask())
    for i in range(20):
        memory.learn(f"u{i}", memory.ask(), ADMIN)
    memory.learn("ada", late, ADMIN)
    assert await roles(memory) is None
    memory._away = memory._trying = False
    memory._wake.set()
    await eventually(lambda: not memory._unwritten, "the batch")
    assert await roles(other) is None
    for i in range(20):
        memory.learn(f"v{i}", memory.ask(), ADMIN)
        await eventually(lambda: not memory._unwritten, "the batch")
    assert len(memory._entries) == 3


async def test_full_memory_forgets_nothing_that_is_being_written(replica: Memories) -> None:
    """A refusal on its way to Redis is not pushed out by other users either: the way may fail."""
    memory = await replica(users=2, budget=60.0)
    go, exchange = asyncio.Event(), memory._shelf.exchange

    async def fails(user: str, answers: Known = ()) -> tuple[Known, float]:
        if user != "ada":
            return await exchange(user, answers)
        await go.wait()
        raise TimeoutError

    memory._shelf.exchange = fails  # type: ignore[method-assign]
    refusing = asyncio.create_task(memory.refuse("ada", memory.ask()))
    await eventually(lambda: memory._writing == ["ada"], "the way to begin")
    for i in range(6):
        memory.learn(f"u{i}", memory.ask(), ADMIN)
        await eventually(lambda: not memory._unwritten, "the batch")
    go.set()
    await refusing
    memory._shelf.exchange = exchange  # type: ignore[method-assign]
    await eventually(lambda: not memory._unwritten, "the refusal to be written")
    assert [one.roles for one in (await exchange("ada"))[0]] == [None]


async def test_refusal_after_a_slow_read_reaches_the_fleet(replica: Memories) -> None:
    """One read that was too slow does not keep a refusal from Redis: it is written at once, with nobody's help."""
    memory, other = await replica(), await replica()
    other.learn("ada", other.ask(), ADMIN)
    await written(other)
    memory._gone(TimeoutError())
    await memory.refuse("ada", memory.ask())
    await eventually(lambda: not memory._unwritten, "the refusal to be written", within=2)
    assert await roles(other) is None


@pytest.mark.parametrize("lost", ["FLUSHALL", "an older copy"])
async def test_replica_writes_again_what_redis_has_lost(
    lost: str, fresh_server: Callable[..., Server], stack: AsyncExitStack, prefix: str
) -> None:
    """A refusal that Redis lost (flushed, or restored from before it) is back once a replica that knows it is asked."""
    server = fresh_server()
    start = starter(stack, server.url, prefix)
    one, other = await start(), await start()
    one.learn("ada", one.ask(), ADMIN)
    await written(one)
    key = f"{prefix}:profile:known:ada"
    before = server.cli("HGETALL", key)
    assert isinstance(before, list)
    await one.refuse("ada", one.ask())
    server.flush()
    if lost != "FLUSHALL":
        server.cli("HSET", key, *before)
    assert await roles(one) is None
    await eventually(lambda: server.cli("HKEYS", key) == ["-"], "the refusal to be written again")
    assert await roles(other) is None


async def test_validity_is_that_of_the_last_answer(replica: Memories) -> None:
    """Answers that repeat the roles and were asked for later are valid for as long as the last of them says."""
    local = Local()
    memory = await replica(local=local)
    memory.learn("ada", memory.ask(), ADMIN, valid_for=20)
    await written(memory)
    for local.ahead in (5, 10, 15):
        memory.learn("ada", memory.ask(), ADMIN, valid_for=20)
    memory._away = memory._trying = True
    found = await memory.recall("ada")
    assert found
    assert 19 < found[2] <= 20


async def test_reads_of_one_turn_travel_together(replica: Memories, server: Server) -> None:
    """Requests that need the fallback at the same time share a round trip, and each gets what is its own."""
    memory = await replica(budget=1.0)
    for i in range(20):
        memory.learn(f"u{i}", memory.ask(), (f"role-{i}",))
    await written(memory)
    shelf = memory._shelf
    sent: list[int] = []
    run = shelf._run

    async def counted(batch: object) -> object:
        sent.append(len(batch))  # type: ignore[arg-type]
        return await run(batch)  # type: ignore[arg-type]

    shelf._run = counted  # type: ignore[method-assign,assignment]
    server.cli("SCRIPT", "FLUSH")
    found = await asyncio.gather(*(roles(memory, f"u{i}") for i in range(20)))
    assert found == [(f"role-{i}",) for i in range(20)]
    assert sent == [20]


async def test_one_bad_record_is_nobody_elses_trouble(replica: Memories, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with one command of a round trip goes wrong for its own caller only."""
    shelf = (await replica())._shelf
    good, bad, also = shelf.exchange("ada"), shelf.exchange("eve"), shelf.exchange("grace")
    text = "apps.profile.shelf.Shelf._run"
    run = shelf._run

    async def spoilt(_: object, batch: list[list[object]]) -> object:
        batch[1][1] = "no number"
        batch[1].append("nor this")
        return await run(batch)

    monkeypatch.setattr(text, spoilt)
    found = await asyncio.gather(good, bad, also, return_exceptions=True)
    assert [isinstance(each, AWAY) for each in found] == [False, True, False]


@pytest.fixture
async def clustered(stack: AsyncExitStack, prefix: str) -> AsyncIterator[tuple[Cluster, Memories]]:
    """A Redis Cluster, and memories on it."""
    with Cluster() as cluster:
        yield cluster, starter(stack, cluster.url, prefix)
        await stack.aclose()


async def test_cluster(clustered: tuple[Cluster, Memories]) -> None:
    """In a Redis Cluster the records of all users are in one place, dated by one clock; a cluster that is gone is away.

    Not raised are the errors of a cluster's client either, which are no `RedisError`.
    """
    cluster, start = clustered
    one, other = await start(), await start()
    for i in range(5):
        one.learn(f"u{i}", one.ask(), ADMIN)
    await written(one)
    assert [await roles(other, f"u{i}") for i in range(5)] == [ADMIN] * 5
    assert sorted(node.cli("DBSIZE") for node in cluster.nodes) == [0, 0, 6]  # type: ignore[type-var]
    await other.refuse("u0", other.ask())
    assert await roles(one, "u0") is None
    for node in cluster.nodes:
        node.kill()
    assert [await roles(one, f"u{i}") for i in range(5)] == [None, ADMIN, ADMIN, ADMIN, ADMIN]
    absent = await start(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}/")
    await absent.refuse("u1", absent.ask())
    assert await roles(absent, "u1") is None
    writer = absent._writer
    assert writer
    assert not writer.done()
