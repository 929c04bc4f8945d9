"""The story of the breaker, and a check of every claim in it at auth's own counter.

traffic flows → auth fails → one replica trips, all are open → stale answers, no call reaches auth → auth heals →
probes across the replicas → closed, live answers
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import httpx

from apps.laptop.events import Events, Fleet, Told
from apps.laptop.places import Places
from apps.laptop.screen import state
from apps.laptop.timeline import Timeline
from apps.laptop.traffic import RATE, USERS, Traffic

_WATCH = 2.0  # seconds for which a state is watched
_SOON = 12.0  # seconds within which what is waited for has happened
_SLOW = 1.0
"""Seconds that auth takes at first when it has healed: until they are over nothing but probes can reach it."""
_PROPAGATION = 0.25
"""Seconds within which every replica has learned of a transition; by looking alone it takes up to 0.9."""
_LOOK = 0.02


@dataclass(frozen=True)
class Count:
    """What auth had received, and when it was asked."""

    at: float
    received: int
    by_replica: Counter[str]


class Story:
    """Use as `async with`, and tell it once."""

    def __init__(self, places: Places, timeline: Timeline) -> None:
        self._places = places
        self._timeline = timeline
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)
        self._traffic = Traffic(self._client, places.gateway.url)
        self._fleet = Fleet(len(places.profiles))
        self._events = [Events(place.url, partial(self._fleet.hear, place.name)) for place in places.profiles]
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Listen to the replicas."""
        self._running = [asyncio.create_task(events.follow()) for events in self._events]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the traffic, and listen no longer."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.aclose()

    async def tell(self) -> None:
        """Tell it; raises `TroubleError` with the first claim that does not hold."""
        async with asyncio.timeout(_SOON):
            await asyncio.gather(*(events.connected.wait() for events in self._events))
        self._running.append(asyncio.create_task(self._traffic.flow()))
        await self._flows()
        await self._trips()
        before = await self._is_open()
        await self._heals(before)
        await self._is_closed()
        await self._ends()

    async def _flows(self) -> None:
        self._timeline.tell(f"traffic flows: {RATE} requests a second through the gateway, for {', '.join(USERS)}")
        answers = await self._watch(0)
        count = await self._count()
        self._timeline.claim(
            f"every answer is live ({answers.total()}), and auth received them all: {_list(count.by_replica)}",
            holds=set(answers) == {"live"}
            and count.received >= answers.total()
            and len(count.by_replica) == len(self._places.profiles),
            but=f"the answers were {_list(answers)}, and auth received {count.received}",
        )

    async def _trips(self) -> None:
        await self._order(kind="error", status=503)
        self._timeline.tell("auth begins to fail: it answers 503")
        told = await self._until("OPEN", "one replica trips, and all are open")
        makers = [name for name, one in told.items() if one["made"]]
        made = next(iter(told.values()))["transition"]
        self._timeline.tell("the circuit is ", state("OPEN"))
        self._timeline.claim(
            f"one replica trips for all: {', '.join(makers)}, on {made['failures']} failures of {made['calls']} calls",
            holds=len(makers) == 1 and (made["previous_state"], made["reason"]) == ("CLOSED", "tripped"),
            but=f"that was {len(makers)} replicas, or {made['reason']} from {made['previous_state']}",
        )
        late = {name: one["lag"] for name, one in told.items() if not one["made"]}
        self._timeline.claim(
            f"all {len(told)} are open: {', '.join(f'{name} {lag * 1000:.0f} ms later' for name, lag in late.items())}",
            holds=max(late.values()) <= _PROPAGATION,
            but=f"that is more than {_PROPAGATION * 1000:.0f} ms",
        )

    async def _is_open(self) -> Count:
        """Return what auth has received when nothing more reaches it."""
        answers, before, after = await self._look()
        self._timeline.claim(
            f"every answer is stale ({answers.total()}), and no call reaches auth: {before.received} before, "
            f"{after.received} after",
            holds=set(answers) == {"stale circuit_open"} and after.received == before.received,
            but=f"the answers were {_list(answers)}, and auth received {after.received - before.received}",
        )
        return before

    async def _heals(self, before: Count) -> None:
        await self._order(kind="slow", latency_seconds=_SLOW)
        self._timeline.tell(f"auth heals: it answers again, at first after {_SLOW:g} s")
        counting = asyncio.create_task(self._counts_until_closed())
        half = await self._until("HALF_OPEN", "the cooldown ends")
        since = next(iter(half.values()))["transition"]["since"]
        self._timeline.tell("the cooldown is over: ", state("HALF_OPEN"))
        closed = await self._until("CLOSED", "probes close the circuit")
        end = next(iter(closed.values()))["transition"]
        counts = await counting
        idle = [one for one in counts if one.at < since]
        last = [one for one in counts if one.at < end["since"]][-1]
        probes, most = last.by_replica - before.by_replica, self._places.settings.breaker_probes
        self._timeline.claim(
            f"the fleet sends {probes.total()} probes together (at most {most}): {_list(probes)}",
            holds=len(probes) > 1 and probes.total() <= most and all(one.received == before.received for one in idle),
            but=f"auth received {idle[-1].received - before.received if idle else 0} before them",
        )
        self._timeline.claim(
            f"enough of them succeed, and {end['replica']} closes the circuit for all",
            holds=end["reason"] == "probes_succeeded" and end["previous_state"] == "HALF_OPEN",
            but=f"that was {end['reason']} from {end['previous_state']}",
        )

    async def _is_closed(self) -> None:
        (await self._client.delete(f"{self._places.auth.url}/faults")).raise_for_status()
        answers, before, after = await self._look()
        self._timeline.claim(
            f"every answer is live again ({answers.total()}), and auth is asked: {before.received} before, "
            f"{after.received} after",
            holds=set(answers) == {"live"} and after.received > before.received,
            but=f"the answers were {_list(answers)}, and auth received {after.received - before.received}",
        )

    async def _look(self) -> tuple[Counter[str], Count, Count]:
        """Return what is answered from now on, and what auth has received before and after."""
        first = await self._traffic.settled()
        before = await self._count()
        answers = await self._watch(first)
        return answers, before, await self._count()

    async def _ends(self) -> None:
        flowing = self._running.pop()
        flowing.cancel()
        await asyncio.gather(flowing, return_exceptions=True)
        count, answers = await self._count(), self._traffic.tally()
        asked = answers.total() - answers["stale circuit_open"]
        self._timeline.claim(
            f"auth received {count.received} calls, just as many as the answers speak of",
            holds=count.received == asked,
            but=f"the answers speak of {asked}: {_list(answers)}",
        )
        failed = [one.status for one in self._traffic.answers if one.status != httpx.codes.OK]
        self._timeline.claim(
            f"no user's request failed: {answers.total()} answers, each a 200",
            holds=not failed,
            but=f"{len(failed)} had another status: {_list(Counter(map(str, failed)))}",
        )

    async def _watch(self, first: int) -> Counter[str]:
        """Let the traffic flow for a while, and count the answers from number `first` on."""
        await asyncio.sleep(_WATCH)
        return self._traffic.tally(first)

    async def _until(self, name: str, claim: str) -> Told:
        try:
            async with asyncio.timeout(_SOON):
                return await self._fleet.until(name)
        except TimeoutError:
            now = (await self._client.get(f"{self._places.profiles[0].url}/breakers/auth")).json()["state"]
            answers = _list(self._traffic.tally())
            but = f"after {_SOON:g} s it is {now} at {self._places.profiles[0].name}; all answers: {answers}"
            self._timeline.claim(claim, holds=False, but=but)
            raise

    async def _count(self) -> Count:
        said = (await self._client.get(f"{self._places.auth.url}/stats")).json()
        return Count(time.time(), said["received"], Counter(said["by_replica"]))

    async def _counts_until_closed(self) -> list[Count]:
        counts = [await self._count()]
        while not self._fleet.all_in("CLOSED"):
            await asyncio.sleep(_LOOK)
            counts.append(await self._count())
        return counts

    async def _order(self, **fault: str | float) -> None:
        order = {**fault, "expires_seconds": 60}
        (await self._client.put(f"{self._places.auth.url}/faults", json=order)).raise_for_status()


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
