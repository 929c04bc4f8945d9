"""What the console is told: one picture for all who watch, and no work while nobody does."""

import asyncio
import logging
import time

from commontrip._breaker import Breaker
from commontrip._breakers import Breakers
from commontrip._circuit import Circuit
from commontrip._listener import Applied
from commontrip._state import State
from commontrip.starlette._answers import event
from commontrip.starlette._fleet import HOUR, Fleet
from commontrip.starlette._picture import Parts, made, parts
from commontrip.starlette._stream import Hub, Stream

logger = logging.getLogger("commontrip")

SHOWN = 200
"""Breakers in the picture, those that are not CLOSED first."""
_EVERY = 1.0  # seconds from one look at the store to the next
_YOUNG = 0.2  # seconds for which a picture is good for the next client
_BACKLOG = 100  # events unsent to one client; there is about one a second
_RETRY = 1000  # ms after which a client comes again


class Watch:
    """A stream for the console: a `picture` of all, then every second a `change` with the parts that are different.

    At a transition a `change` comes at once. While anybody watches, however many, there is one look at the store a
    second (see `Fleet` for its cost); else none.
    """

    def __init__(self, *, orders: bool) -> None:
        """Begin with nothing known; `orders` says whether operators have a token."""
        self.hub = Hub(_BACKLOG, self._run)
        self._orders = orders
        self._fleet = Fleet()
        self._breakers: Breakers | None = None
        self._told: dict[str, Parts] = {}
        self._told_at = self._next = 0.0
        self._picture = b""
        self._coming = self._failed = False

    def stream(self, breakers: Breakers) -> Stream:
        """Return a stream for one more client."""
        self._breakers = breakers
        if time.monotonic() - self._told_at > _YOUNG:
            self._publish()
        if not self._picture:
            past = self._fleet.past
            whole = {name: told | {"made": list(past.get(name, {}).values())} for name, told in self._told.items()}
            self._picture = event("picture", self._head() | {"breakers": whole}, retry=_RETRY)
        return Stream(self._picture, self.hub)

    def heard(self, applied: Applied) -> None:
        """Tell of a transition; of many in one turn of the loop together."""
        if self.hub.streams:
            news = made(applied.transition, local=applied.local)
            self._fleet.add(applied.breaker, [news], since=applied.applied_at - HOUR)
            if not self._coming:
                self._coming = True
                asyncio.get_running_loop().call_soon(self._publish)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + _EVERY
            await self._look()
            self._publish()

    async def _look(self) -> None:
        try:
            await self._fleet.look([circuit for _, circuit in self._shown()])
            self._failed = False
        except Exception:
            self._fleet.answers = False
            if not self._failed:
                self._failed = True
                logger.exception("the console cannot read what the store says; this is logged once until it can")

    def _publish(self) -> None:
        self._coming, self._told_at, self._picture = False, time.monotonic(), b""
        self.hub.send(event("change", self._head() | {"breakers": self._changes()}))

    def _head(self) -> Parts:
        breakers = list(self._breakers or ())
        return {
            "replica": self._breakers.replica if self._breakers else "",
            "now": round(self._now(), 3),
            "answers": self._fleet.answers,
            "orders": self._orders,
            "more": max(0, len(breakers) - SHOWN),
        }

    def _changes(self) -> dict[str, Parts | None]:
        """Return what is different from what was told, by breaker; None for one that is no more."""
        now, fleet, old = self._now(), self._fleet, self._told
        self._told = {
            breaker.name: parts(breaker, fleet.views.get(breaker.name), now, answers=fleet.answers)
            | {"replicas": fleet.members.get(breaker.name)}
            for breaker, _ in self._shown()
        }
        changes: dict[str, Parts | None] = dict.fromkeys(old.keys() - self._told.keys())
        fleet.forget(changes)
        for name, told in self._told.items():
            before, news = old.get(name, {}), fleet.news.pop(name, {})
            different = {part: value for part, value in told.items() if part not in before or before[part] != value}
            if news:
                different["made"] = list(news.values())
            if different:
                changes[name] = different
        return changes

    def _shown(self) -> list[tuple[Breaker, Circuit]]:
        breakers = self._breakers
        found = [(one, circuit) for one in breakers or () if breakers and (circuit := breakers.circuit(one.name))]
        if len(found) > SHOWN:
            found.sort(key=lambda pair: pair[0].state == State.CLOSED)
        return found[:SHOWN]

    def _now(self) -> float:
        """Return the store's clock, as far as known; this machine's as long as there is no breaker to ask."""
        circuits = self._breakers.circuits() if self._breakers else []
        return circuits[0].replica.line.now() if circuits else time.time()
