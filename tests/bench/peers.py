"""One adapter per library, each used as its own documentation says, on one loop: in memory, or with Redis.

An adapter gives the library's closed and open breaker in every form that it has, as loops. pybreaker
guards no coroutine functions, so its functions are plain ones; its `calling()` stands around an await.
aiobreaker and purgatory have no context manager, no `call`, respectively.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiobreaker  # type: ignore[import-untyped]
import aiobreaker.state  # type: ignore[import-untyped]
import aiobreaker.storage.memory  # type: ignore[import-untyped]
import aiobreaker.storage.redis  # type: ignore[import-untyped]
import interlock
import interlock.integrations.redis
import purgatory
import purgatory.domain.model
import pybreaker
import redis
import redis.asyncio

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    MemoryStore,
    Policy,
    SlowCallRate,
    State,
)
from commontrip.redis import RedisStore
from tests.bench import loops
from tests.bench.loops import Loop, answer, answer_now
from tests.support.waiting import eventually

LONG = 86_400.0
"""Seconds that an open circuit stays open here: longer than the bench."""

_AT_ONCE = 100  # first uses: each reads from Redis, and the store budget is for all

DECORATED, CALL, CONTEXT, REJECTED = "decorated", "call", "context manager", "rejection"
FORMS = (DECORATED, CALL, CONTEXT, REJECTED)


class NotAdmittedError(Exception):
    """A first use was refused again and again."""


class DownError(Exception):
    """What the guarded call raises to open a circuit."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to make a call, and the bare loop that it is compared with."""

    name: str
    bare: str
    loop: Loop


@dataclass(slots=True)
class Peer:
    """A library, ready to be measured."""

    forms: list[Form] = field(default_factory=list)
    many: Callable[[int], Awaitable[None]] | None = None
    """Make so many breakers and use each once."""

    def add(self, name: str, loop: Loop, bare: str = "await") -> None:
        """Add a form."""
        self.forms.append(Form(name, bare, loop))


Adapter = Callable[[str | None], AbstractAsyncContextManager[Peer]]


async def fail() -> int:
    """Stand for the guarded call while it is down."""
    raise DownError


@asynccontextmanager
async def commontrip(url: str | None, policy: Policy | None = None) -> AsyncIterator[Peer]:
    """Trip by one failure, so that the open circuit is one that the fleet has opened."""
    store = RedisStore.from_url(url, prefix=f"bench-{secrets.token_hex(4)}") if url else MemoryStore()
    async with Breakers(store) as breakers:
        breaker = breakers.get("closed", policy)
        tripped = breakers.get("open", _trips_at_once())
        await _see_open(tripped(fail), lambda: tripped.state == State.OPEN)
        await breaker.call(answer)

        async def guarded(calls: int) -> None:
            for _ in range(calls):
                async with breaker:
                    await answer()

        async def many(count: int) -> None:
            for start in range(0, count, _AT_ONCE):
                names = (f"b{i}" for i in range(start, min(count, start + _AT_ONCE)))
                await asyncio.gather(*(_use(breakers.get(name)) for name in names))

        peer = Peer(many=many)
        peer.add(DECORATED, loops.awaited(breaker(answer)))
        peer.add(CALL, loops.handed(breaker.call, answer))
        peer.add(CONTEXT, guarded)
        peer.add(REJECTED, loops.refused(tripped(answer), CircuitOpenError), "await raise")
        yield peer


async def _use(breaker: Breaker) -> None:
    """Call once; on a busy machine the store may not answer a first use within its budget."""
    for _ in range(100):
        with contextlib.suppress(CircuitOpenError):
            await breaker.call(answer)
            return
    raise NotAdmittedError


@asynccontextmanager
async def commontrip_slow(url: str | None) -> AsyncIterator[Peer]:
    """The same with a policy that watches for slow calls: every call is timed while it runs."""
    async with commontrip(url, Policy(trip=SlowCallRate(0.5, slower_than=1.0))) as peer:
        peer.forms = [form for form in peer.forms if form.name != REJECTED]
        yield peer


def _trips_at_once() -> Policy:
    cooldown = Cooldown(initial=LONG, maximum=LONG, jitter=0)
    return Policy(trip=ConsecutiveFailures(1), cooldown=cooldown)


async def _see_open(call: Callable[[], Awaitable[int]], is_open: Callable[[], bool]) -> None:
    try:
        await call()
    except DownError:
        await eventually(is_open, "the circuit to open")


@asynccontextmanager
async def in_purgatory(url: str | None) -> AsyncIterator[Peer]:
    """Purgatory 3 works with today's redis-py, although its extra asks for an older one."""
    work = purgatory.AsyncRedisUnitOfWork(url) if url else None
    factory = purgatory.AsyncCircuitBreakerFactory(default_ttl=LONG, uow=work)
    await factory.initialize()
    opened = factory("open", threshold=1)
    await _see_open(opened(fail), lambda: True)

    async def guarded(calls: int) -> None:
        for _ in range(calls):
            async with await factory.get_breaker("closed"):
                await answer()

    async def many(count: int) -> None:
        for i in range(count):
            await factory(f"b{i}")(answer)()

    peer = Peer(many=many)
    peer.add(DECORATED, loops.awaited(factory("closed")(answer)))
    peer.add(CONTEXT, guarded)
    refusals = loops.refused(opened(answer), purgatory.domain.model.OpenedState)
    peer.add(REJECTED, refusals if work else _forgetting(factory, refusals), "await raise")
    yield peer
    if work:
        contexts: Any = work.contexts
        await contexts.redis.aclose()


def _forgetting(factory: purgatory.AsyncCircuitBreakerFactory, refusals: Loop) -> Loop:
    """In memory every refusal is one and the same exception, which keeps the frames of them all."""

    async def loop(calls: int) -> None:
        await refusals(calls)
        contexts: Any = factory.uow.contexts
        contexts.breakers["open"]._state.__traceback__ = None

    return loop


@asynccontextmanager
async def in_interlock(url: str | None) -> AsyncIterator[Peer]:
    """Wait until the poll has seen the shared state open: refusals then come from the shared view."""
    config = interlock.Config(wait_duration_in_open=LONG)
    client = redis.asyncio.from_url(url) if url else None
    storage = interlock.integrations.redis.AsyncRedisStorage(client) if client else None
    made: list[interlock.CircuitBreaker] = []

    def make(name: str) -> interlock.CircuitBreaker:
        made.append(interlock.CircuitBreaker(name=name, config=config, storage=storage))
        return made[-1]

    breaker, tripped = make("closed"), make("open")
    await asyncio.gather(*(tripped(fail)() for _ in range(config.minimum_number_of_calls)), return_exceptions=True)
    if storage:
        await asyncio.sleep(2 * storage.poll_interval)
    await eventually(lambda: tripped.state == interlock.State.OPEN, "the circuit to open")

    async def guarded(calls: int) -> None:
        for _ in range(calls):
            async with breaker:
                await answer()

    async def many(count: int) -> None:
        await asyncio.gather(*(one.aclose() for one in made))  # their polls would be counted
        for i in range(count):
            await make(f"b{i}")(answer)()

    peer = Peer(many=many)
    peer.add(DECORATED, loops.awaited(breaker(answer)))
    peer.add(CALL, loops.handed(breaker.call, answer))
    peer.add(CONTEXT, guarded)
    refusal = interlock.CircuitOpenError
    peer.add(REJECTED, loops.refused(tripped(answer), refusal), "await raise")
    yield peer
    await asyncio.gather(*(one.aclose() for one in made))
    if client:
        await client.aclose()


@asynccontextmanager
async def in_aiobreaker(url: str | None) -> AsyncIterator[Peer]:
    """Its Redis storage is not asynchronous: it blocks the event loop, as it does for its users."""
    client = redis.Redis.from_url(url) if url else None
    closed = aiobreaker.state.CircuitBreakerState.CLOSED

    def make(name: str) -> aiobreaker.CircuitBreaker:
        storage = (
            aiobreaker.storage.redis.CircuitRedisStorage(closed, client, namespace=name)
            if client
            else aiobreaker.storage.memory.CircuitMemoryStorage(closed)
        )
        return aiobreaker.CircuitBreaker(timeout_duration=timedelta(seconds=LONG), state_storage=storage)

    breaker, tripped = make("closed"), make("open")
    tripped.open()

    async def many(count: int) -> None:
        for i in range(count):
            await make(f"b{i}").call_async(answer)

    peer = Peer(many=many)
    peer.add(DECORATED, loops.awaited(breaker(answer)))
    peer.add(CALL, loops.handed(breaker.call_async, answer))
    refusal = aiobreaker.state.CircuitBreakerError
    peer.add(REJECTED, loops.refused(tripped(answer), refusal), "await raise")
    yield peer
    if client:
        client.close()


@asynccontextmanager
async def in_pybreaker(url: str | None) -> AsyncIterator[Peer]:
    """Not asynchronous at all: plain functions, except for what stands inside `calling()`."""
    client = redis.Redis.from_url(url) if url else None

    def make(name: str) -> pybreaker.CircuitBreaker:
        storage = (
            pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=name)
            if client
            else pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        )
        return pybreaker.CircuitBreaker(reset_timeout=LONG, state_storage=storage)

    breaker, tripped = make("closed"), make("open")
    tripped.open()

    async def guarded(calls: int) -> None:
        for _ in range(calls):
            with breaker.calling():
                await answer()

    async def many(count: int) -> None:
        for i in range(count):
            make(f"b{i}").call(answer_now)

    peer = Peer(many=many)
    peer.add(DECORATED, loops.plain(breaker(answer_now)), "call")
    peer.add(CALL, loops.handed_now(breaker.call, answer_now), "call")
    peer.add(CONTEXT, guarded)
    refusal = pybreaker.CircuitBreakerError
    peer.add(REJECTED, loops.refused_now(tripped(answer_now), refusal), "call raise")
    yield peer
    if client:
        client.close()


PEERS: dict[str, Adapter] = {
    "commontrip": commontrip,
    "interlock-cb": in_interlock,
    "purgatory": in_purgatory,
    "pybreaker": in_pybreaker,
    "aiobreaker": in_aiobreaker,
}
