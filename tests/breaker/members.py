"""Replicas of one fleet in this process, each with a store of its own that a test can spoil."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from commontrip import (
    Applied,
    Breaker,
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    Cooldown,
    Listener,
    Policy,
    Report,
    State,
    SuccessRatio,
    Trip,
)
from commontrip._calls import Call
from commontrip.redis import RedisStore
from tests.support.servers import Server
from tests.support.unreliable_store import Clock, UnreliableStore
from tests.support.waiting import PATIENCE, eventually


class Boom(Exception):  # noqa: N818 - what the dependency did
    """What the dependency does."""


class Member(Listener):
    """One replica: its store, its breaker `auth`, and what it told its listeners."""

    def __init__(self, url: str, prefix: str, policy: Policy, clock: Clock | None = None, **settings: Any) -> None:
        """Prepare a replica; `settings` are those of `Breakers`, whose store budget no busy machine uses up."""
        self.store = UnreliableStore(RedisStore.from_url(url, prefix=prefix), clock)
        self.breakers = Breakers(self.store, listeners=[self], **{"store_budget": PATIENCE} | settings)
        self.policy = policy
        self.applied: list[Applied] = []
        self.reports: list[Report] = []

    @property
    def breaker(self) -> Breaker:
        """The breaker `auth`."""
        return self.breakers.get("auth", self.policy)

    @property
    def epoch(self) -> str:
        """The epoch as far as this replica knows."""
        return self.breaker.snapshot.epoch

    @property
    def made(self) -> list[str]:
        """The epochs of the transitions that this replica says it made."""
        return [str(one.transition.epoch) for one in self.applied if one.made and not one.local]

    def on_transition(self, applied: Applied) -> None:
        """Note it."""
        self.applied.append(applied)

    def on_report(self, report: Report) -> None:
        """Note it."""
        self.reports.append(report)

    def reported(self, kind: str) -> int:
        """Return how often that was reported."""
        return sum(report.kind == kind for report in self.reports)

    async def succeed(self, times: int = 1) -> None:
        """Make calls that succeed."""
        for _ in range(times):
            async with self.breaker:
                pass

    async def fail(self, times: int = 1) -> None:
        """Make calls that fail."""
        for _ in range(times):
            with pytest.raises(Boom):
                async with self.breaker:
                    raise Boom

    def hurry(self) -> None:
        """Let calls wait for the store from now on as long as they would by default, and no longer."""
        self.breaker._circuit.replica.budget = 0.05

    async def refused(self) -> CircuitOpenError:
        """Make a call that must be refused."""
        with pytest.raises(CircuitOpenError) as caught:
            await self.breaker.admit()
        return caught.value

    async def admitted(self, seconds: float) -> list[Call]:
        """Ask again and again, and return the calls that were admitted; none of them is ended."""
        calls, loop = [], asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            with contextlib.suppress(CircuitOpenError):
                calls.append(await self.breaker.admit())
            await asyncio.sleep(0.001)
        return calls

    async def insists(self, condition: Callable[[], bool], what: str) -> None:
        """Make calls, which may be refused, until the condition holds."""
        calls = asyncio.create_task(self._call())
        try:
            await eventually(condition, what)
        finally:
            calls.cancel()
            await asyncio.wait({calls})

    async def _call(self) -> None:
        while True:
            with contextlib.suppress(CircuitOpenError):
                await self.succeed()
            await asyncio.sleep(0.02)

    async def sees(self, state: State) -> None:
        """Wait until the replica sees a state."""
        await eventually(lambda: self.breaker.state == state, f"a replica to see {state}")

    async def open(self) -> None:
        """Trip, with a policy of so many failures in a row, and wait until the store has it."""
        assert isinstance(self.policy.trip, ConsecutiveFailures)
        await self.succeed()
        await self.fail(self.policy.trip.n)
        await self.sees(State.OPEN)

    async def half_open(self) -> None:
        """Trip, and wait out the cooldown."""
        await self.open()
        await eventually(lambda: not self.breaker.snapshot.remaining, "the cooldown to end")


Join = Callable[..., contextlib.AbstractAsyncContextManager[Member]]


def joins(url: str, prefix: str, policy: Policy) -> Join:
    """Return what makes members of one fleet: `async with join() as a, join() as b`."""

    @contextlib.asynccontextmanager
    async def join(**settings: Any) -> AsyncIterator[Member]:
        member = Member(url, prefix, settings.pop("policy", policy), **settings)
        async with member.breakers:
            yield member
            member.store.mend()

    return join


async def crowd(redis_url: str, prefix: str) -> None:
    """Let a hundred others be in the fleet: at ten commands a second a replica has a batch in 14 s."""
    store = RedisStore.from_url(redis_url, prefix=prefix)
    for number in range(100):
        await store.presence(f"other-{number}", 60)
    await store.aclose()


def forget(server: Server, prefix: str) -> None:
    """Lose all keys of one fleet, as FLUSHALL does."""
    keys = server.cli("KEYS", f"{prefix}:*")
    assert isinstance(keys, list)
    server.cli("DEL", *keys)


def policy(trip: Trip, *, probes: int = 1, cooldown: float = 30.0, **settings: Any) -> Policy:
    """Make a policy that closes when all probes succeed, with a cooldown that never varies."""
    return Policy(
        trip=trip,
        recover=SuccessRatio(1.0, probes),
        cooldown=Cooldown(cooldown, 1, cooldown, 0),
        **{"window": 60.0} | settings,
    )
