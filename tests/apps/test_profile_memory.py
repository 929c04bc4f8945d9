"""The fallback's memory on a real Redis: what it costs, what it forgets, and what it does without Redis."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from apps.profile import memory as module
from apps.profile.clock import StoreClock
from apps.profile.known import Answer, Known, merge
from apps.profile.memory import Memory
from apps.profile.shelf import Shelf
from apps.shared.redis import AWAY
from tests.apps.memories import ADMIN, BUDGET, READER, Local, Memories, roles, shelf_on, starter, told, written
from tests.apps.running import refusing
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
async def shelf(redis_url: str, prefix: str) -> AsyncIterator[Shelf]:
    """A shelf on the shared server."""
    found = shelf_on(redis_url, prefix, StoreClock(time.monotonic))
    yield found
    await found.aclose()


@pytest.fixture
def replica(stack: AsyncExitStack, redis_url: str, prefix: str) -> Memories:
    """Start memories of replicas."""
    return starter(stack, redis_url, prefix)


async def test_script_does_what_the_rule_says(shelf: Shelf) -> None:
    """The Lua script and the Python rule agree on every history, times in every order."""
    rng, base = random.Random(5), time.time() - 1000
    for case in range(60):
        known: Known = ()
        for _ in range(rng.randrange(1, 14)):
            asked = base + rng.randrange(20)
            answered, expires = asked + rng.randrange(9), asked + rng.choice([50, float("inf")])
            chosen = rng.choice([None, ADMIN, READER, (str(rng.randrange(9)),)])
            answer = Answer(chosen, round(asked, 3), round(answered, 3), round(expires, 3))
            known = merge(known, [answer])
            stands, _ = await shelf.exchange(f"u{case}", (answer,))
            assert _rounded(stands) == _rounded(known)
        assert _rounded((await shelf.exchange(f"u{case}"))[0]) == _rounded(known)


def _rounded(known: Known) -> set[tuple[object, ...]]:
    return {(one.roles, round(one.asked, 3), round(one.answered, 3), round(one.expires, 3)) for one in known}


async def test_record_ends_by_itself(shelf: Shelf, server: Server, prefix: str) -> None:
    """A record has a TTL, renewed when it is written and not when it is read."""
    now = time.time()
    await shelf.exchange("ada", (Answer(ADMIN, now - 1, now),))
    key = f"{prefix}:profile:known:ada"
    assert 299_000 < int(server.cli("PTTL", key)) <= 300_000
    server.cli("PEXPIRE", key, 5000)
    await shelf.exchange("ada")
    assert int(server.cli("PTTL", key)) <= 5000


@pytest.mark.parametrize(
    "spoil",
    [
        ("SET", "x"),
        ("HSET", '["admin"]', "x y z"),
        ("HSET", "garbage", "1 2 3"),
        ("HSET", '{"a":1}', "1 2 3"),
        ("RPUSH", "x"),
    ],
    ids=["string", "times", "roles", "object", "list"],
)
async def test_garbage_says_nothing_and_is_replaced(shelf: Shelf, server: Server, prefix: str, spoil: Any) -> None:
    """What somebody else wrote into a record is no auth info, raises nothing, and goes with the next answer."""
    command, *words = spoil
    server.cli(command, f"{prefix}:profile:known:ada", *words)
    known, now = await shelf.exchange("ada")
    assert all(one.roles is None for one in known)
    known, _ = await shelf.exchange("ada", (Answer(ADMIN, now, now + 1),))
    assert [one.roles for one in known] == [ADMIN]


async def test_other_clocks_time_lasts_one_answer(shelf: Shelf, server: Server, prefix: str) -> None:
    """A refusal dated an hour ahead, by the clock of a Redis that failed over, does not hold for an hour."""
    ahead = int((time.time() + 3600) * 1e6)
    server.cli("HSET", f"{prefix}:profile:known:ada", "-", f"{ahead} {ahead} {2**53}")
    known, now = await shelf.exchange("ada", (Answer(ADMIN, time.time(), time.time()),))
    assert [one.roles for one in known] == [None]
    known, _ = await shelf.exchange("ada", (Answer(ADMIN, now + 1e-3, now + 2),))
    assert [one.roles for one in known] == [ADMIN]


async def test_success_costs_no_command(proxy: Proxy, replica: Memories) -> None:
    """A thousand successes for one user are one write, in a batch."""
    memory = await replica(proxy.url)
    await eventually(lambda: memory._clock.last is not None, "the first look at Redis's clock")
    looks = proxy.counts["EVALSHA"]
    for _ in range(1000):
        memory.learn("ada", memory.ask(), ADMIN)
    await written(memory)
    for _ in range(1000):
        memory.learn("ada", memory.ask(), ADMIN)
    await asyncio.sleep(0.15)
    assert proxy.counts["EVALSHA"] - looks == 1


async def test_what_is_new_or_old_is_written(replica: Memories, server: Server, prefix: str) -> None:
    """Other roles are written at once, the same ones when what is written has reached a quarter of the age."""
    local = Local()
    memory = await replica(local=local)

    async def writes(given: tuple[str, ...]) -> bool:
        before, local.ahead = server.cli("HGETALL", f"{prefix}:profile:known:ada"), local.ahead + 1
        memory.learn("ada", memory.ask(), given)
        await written(memory)
        return bool(server.cli("HGETALL", f"{prefix}:profile:known:ada") != before)

    assert [await writes(ADMIN), await writes(ADMIN), await writes(READER)] == [True, False, True]
    local.ahead = 70
    assert not await writes(READER)
    local.ahead = 80
    assert await writes(READER)


async def test_fleet_remembers(replica: Memories) -> None:
    """What one replica learned another serves, with its age, and for nobody else."""
    one, other = await replica(), await replica()
    one.learn("ada", one.ask(), ADMIN, valid_for=60)
    await written(one)
    found = await other.recall("ada")
    assert found
    assert found[0] == ADMIN
    assert 0 <= found[1] < 2
    assert 50 < found[2] <= 60
    assert await roles(other, "grace") is None


async def test_refusal_is_the_fleets_when_it_is_answered(replica: Memories) -> None:
    """Once a refusal has been noted, no replica serves what was known before."""
    one, other, third = await replica(), await replica(), await replica()
    one.learn("ada", one.ask(), ADMIN)
    third.learn("ada", third.ask(), ADMIN)
    await written(one)
    await written(third)
    assert await roles(other) == ADMIN
    await other.refuse("ada", other.ask())
    assert [await roles(each) for each in (one, other, third)] == [None, None, None]


async def test_late_answer_does_not_bring_back_what_was_refused(replica: Memories) -> None:
    """An answer asked for before another replica's refusal, and arrived after it, is never served."""
    one, other = await replica(), await replica()
    late = one.ask()
    await other.refuse("ada", other.ask())
    one.learn("ada", late, ADMIN)
    assert await roles(one) is None
    await written(one)
    assert [await roles(each) for each in (one, other)] == [None, None]
    one.learn("ada", one.ask(), ADMIN)
    await written(one)
    assert [await roles(each) for each in (one, other)] == [ADMIN, ADMIN]


async def test_late_answer_does_not_bring_back_what_was_refused_here(replica: Memories) -> None:
    """The same within one replica, and with Redis or without."""
    memory = await replica()
    late = memory.ask()
    await memory.refuse("ada", memory.ask())
    memory.learn("ada", late, ADMIN)
    assert await roles(memory) is None
    memory._away = memory._trying = True
    assert await roles(memory) is None


async def test_repeated_answers_count(replica: Memories) -> None:
    """An answer that only repeats the one before makes what is served younger, with Redis and without."""
    local = Local()
    memory = await replica(local=local)
    memory.learn("ada", memory.ask(), ADMIN)
    await written(memory)
    local.ahead = 60
    memory.learn("ada", memory.ask(), ADMIN, valid_for=30)
    local.ahead = 70
    memory._away = memory._trying = True
    found = await memory.recall("ada")
    assert found
    assert found[0] == ADMIN
    assert 10 <= found[1] < 11
    assert 19 < found[2] <= 20


async def test_repeated_answers_come_back_no_more_than_others(replica: Memories) -> None:
    """A late answer is as late if it repeats what was said before the refusal; one asked for afterwards is news."""
    memory, other = await replica(), await replica()
    memory.learn("ada", memory.ask(), ADMIN)
    await written(memory)
    memory.learn("ada", memory.ask(), ADMIN)
    late = memory.ask()
    await memory.refuse("ada", memory.ask())
    memory.learn("ada", late, ADMIN)
    assert [await roles(each) for each in (memory, other)] == [None, None]
    memory.learn("ada", memory.ask(), ADMIN)
    await written(memory)
    assert [await roles(each) for each in (memory, other)] == [ADMIN, ADMIN]
    late = memory.ask()
    memory.learn("ada", memory.ask(), ADMIN)
    memory.learn("ada", late, READER)
    assert await roles(memory) is None


async def test_roles_taken_away_do_not_come_back(replica: Memories) -> None:
    """A late answer with more roles does not replace a later one with fewer, on whichever replica it arrives."""
    one, other = await replica(), await replica()
    late = one.ask()
    other.learn("ada", other.ask(), READER)
    await written(other)
    one.learn("ada", late, ADMIN)
    await written(one)
    assert {await roles(one), await roles(other)} <= {None, READER}


async def test_what_the_fleet_knew_is_kept_for_when_redis_is_away(replica: Memories) -> None:
    """A replica that has read what the fleet knows, a refusal too, remembers it without Redis."""
    one, other = await replica(), await replica()
    other.learn("eve", other.ask(), ADMIN)
    one.learn("ada", one.ask(), ADMIN)
    await one.refuse("eve", one.ask())
    await written(one)
    assert (await roles(other), await roles(other, "eve")) == (ADMIN, None)
    other._away = other._trying = True
    assert (await roles(other), await roles(other, "eve")) == (ADMIN, None)


async def test_too_old_is_unknown(replica: Memories) -> None:
    """What has reached the age of the setting, or the end of its validity, is not served."""
    local = Local()
    memory = await replica(local=local, most_age=30.0)
    memory._away = memory._trying = True  # by this process's own clock
    memory.learn("ada", memory.ask(), ADMIN)
    memory.learn("grace", memory.ask(), READER, valid_for=10)
    local.ahead = 9
    assert (await roles(memory), await roles(memory, "grace")) == (ADMIN, READER)
    local.ahead = 11
    assert (await roles(memory), await roles(memory, "grace")) == (ADMIN, None)
    local.ahead = 31
    assert await roles(memory) is None


async def test_users_are_bounded(replica: Memories) -> None:
    """A process remembers so many users, the latest; Redis remembers the others."""
    memory = await replica(users=3)
    for i in range(10):
        memory.learn(f"u{i}", memory.ask(), ADMIN)
        await written(memory)
    assert list(memory._entries) == ["u7", "u8", "u9"]
    assert await roles(memory, "u0") == ADMIN


async def test_frozen_redis_delays_by_the_budget(fresh_server: Callable[..., Server], replica: Memories) -> None:
    """With Redis frozen a request waits for the budget at most, few do, and this process's memory serves."""
    server = fresh_server()
    memory = await replica(server.url, budget=BUDGET)
    memory.learn("ada", memory.ask(), ADMIN)
    await eventually(lambda: server.cli("DBSIZE") == 2, "the batch")
    server.freeze()
    started = time.monotonic()
    assert [await roles(memory), await roles(memory, "grace")] == [ADMIN, None]
    assert time.monotonic() - started < 10 * BUDGET
    waits = sorted([await _timed(memory.recall("ada")) for _ in range(1)])
    together = await asyncio.gather(*(_timed(memory.recall("ada")) for _ in range(50)))
    assert sum(wait > BUDGET / 2 for wait in together) <= 1, (waits, together)
    server.thaw()
    await eventually(lambda: not memory._trying, "the end of the question")


async def _timed(call: Awaitable[object]) -> float:
    started = time.monotonic()
    await call
    return time.monotonic() - started


async def test_redis_absent_at_start(
    fresh_server: Callable[..., Server], replica: Memories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Redis a replica remembers for itself, refusals too; what it knows reaches Redis when that is there."""
    monkeypatch.setattr(module, "_TOLD", 0.2)
    server = fresh_server()
    server.kill()
    memory = await replica(server.url)
    memory.learn("ada", memory.ask(), ADMIN)
    memory.learn("eve", memory.ask(), ADMIN)
    await memory.refuse("eve", memory.ask())
    assert [await roles(memory), await roles(memory, "eve")] == [ADMIN, None]
    server.start()
    await written(memory)
    other = await replica(server.url)
    await told(other)
    assert [await roles(other), await roles(other, "eve")] == [ADMIN, None]


async def test_refusal_while_redis_is_away_is_written_later(proxy: Proxy, replica: Memories) -> None:
    """A refusal that could not be written in time is written as soon as Redis is back, and holds here meanwhile."""
    memory, other = await replica(proxy.url, budget=BUDGET), await replica()
    await eventually(lambda: memory._clock.last is not None, "the first look at Redis's clock")
    other.learn("ada", other.ask(), ADMIN)
    await written(other)
    proxy.freeze()
    wait = await _timed(memory.refuse("ada", memory.ask()))
    assert wait < 10 * BUDGET
    assert await roles(memory) is None
    proxy.thaw()
    deadline = time.monotonic() + 5
    while await roles(other) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_lost_scripts_and_keys_are_no_loss(
    fresh_server: Callable[..., Server], replica: Memories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart of Redis, empty and without scripts, this process's memory is written again, and then serves."""
    monkeypatch.setattr(module, "_TOLD", 0.5)
    server = fresh_server()
    memory = await replica(server.url)
    memory.learn("ada", memory.ask(), ADMIN)
    await eventually(lambda: server.cli("DBSIZE") == 2, "the batch")
    server.cli("FLUSHALL")
    server.cli("SCRIPT", "FLUSH")
    assert await roles(memory) is None, "another replica may know more, and has not told it yet"
    await eventually(lambda: server.cli("DBSIZE") == 2, "the record to be written again")
    await told(memory)
    assert await roles(memory) == ADMIN


async def test_what_is_heard_after_a_loss_is_served_at_once(server: Server, prefix: str, replica: Memories) -> None:
    """What auth says once Redis is back and empty nobody can have heard otherwise before."""
    memory = await replica()
    server.cli("DEL", f"{prefix}:profile:since")
    assert await roles(memory) is None
    memory.learn("ada", memory.ask(), ADMIN)
    assert await roles(memory) == ADMIN


async def test_an_emptied_redis_brings_nothing_back(
    fresh_server: Callable[..., Server], replica: Memories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets roles from a replica that had them, when another one, asked about nobody since, heard a refusal."""
    monkeypatch.setattr(module, "_LOOK", 0.2)
    monkeypatch.setattr(module, "_TOLD", 2.0)
    server = fresh_server()
    one, other = await replica(server.url), await replica(server.url)
    other.learn("ada", other.ask(), ADMIN)
    await written(other)
    await one.refuse("ada", one.ask())
    server.cli("FLUSHALL")
    assert await roles(other) is None
    await told(other)
    assert await roles(other) is None
    [key] = server.cli("KEYS", "*:profile:known:ada")
    assert server.cli("HKEYS", key) == ["-"]


async def test_what_waits_is_written_at_the_end(redis_url: str, prefix: str, server: Server) -> None:
    """A replica that ends writes down what it learned last."""
    clock = StoreClock(time.monotonic)
    async with Memory(shelf_on(redis_url, prefix, clock), clock, most_age=300, budget=BUDGET, users=9) as memory:
        await eventually(lambda: clock.last is not None, "the first look at Redis's clock")
        memory.learn("ada", memory.ask(), ADMIN)
    assert server.cli("HKEYS", f"{prefix}:profile:known:ada") == [json.dumps(ADMIN)]


async def test_refusals_do_not_wait_for_redis_that_is_away(replica: Memories) -> None:
    """While Redis is known to be away, a refusal costs no wait at all."""
    memory = await replica(refusing().replace("http", "redis"), budget=BUDGET)
    await eventually(lambda: memory._away, "Redis to be found away")
    assert await _timed(memory.refuse("ada", memory.ask())) < BUDGET / 2
    with pytest.raises(AWAY):
        await memory._write_one("ada")
