"""Memories of replicas under test, on a real Redis, with clocks that can be moved."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from apps.profile import memory as module
from apps.profile.clock import StoreClock
from apps.profile.memory import Memory
from apps.profile.shelf import Shelf
from apps.shared.redis import connect
from apps.shared.settings import RedisSettings
from tests.support.waiting import eventually

ADMIN, READER = ("admin",), ("reader",)
BUDGET = 0.05
"""For tests of what happens when it is used up."""
Memories = Callable[..., Awaitable[Memory]]


class Local:
    """A monotonic clock that runs, and can be moved ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        """Return it."""
        return time.monotonic() + self.ahead


def shelf_on(url: str, prefix: str, clock: StoreClock, life: float = 300) -> Shelf:
    """A shelf with a client of its own."""
    return Shelf(connect(RedisSettings(redis_url=url)), prefix, life, clock)


def starter(stack: AsyncExitStack, redis_url: str, prefix: str) -> Memories:
    """Return what starts memories of replicas; it takes `url`, `local` and settings.

    The budget is generous: on a busy machine an answer of Redis is not missed for being slow.
    """

    async def start(url: str = redis_url, local: Callable[[], float] = time.monotonic, **settings: Any) -> Memory:
        clock = StoreClock(local)
        given = {"most_age": 300.0, "budget": 2.0, "users": 1000, **settings}
        memory = await stack.enter_async_context(Memory(shelf_on(url, prefix, clock), clock, **given))
        if url == redis_url:
            await eventually(lambda: clock.last is not None, "the first look at Redis's clock")
        return memory

    return start


async def roles(memory: Memory, user: str = "ada") -> object:
    """What would be served now."""
    found = await memory.recall(user)
    return found[0] if found else None


async def told(memory: Memory) -> None:
    """Wait until every replica has had the time to tell a Redis that had lost all what it knows."""
    await memory.recall("nobody")
    since, clock = memory._shelf.since, memory._clock
    last = clock.last
    assert last
    await eventually(lambda: last.earliest(clock.local()) - since > module._TOLD, "all to have told")


async def written(memory: Memory) -> None:
    """Wait until all that is known stands in Redis."""
    await eventually(lambda: all(entry.stands(75) for entry in memory._entries.values()), "the batch")
