"""What only the store knows, asked for once for all who watch: counts, probes, members, the last hour."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from commontrip._circuit import Circuit
from commontrip._errors import StoreUnavailableError
from commontrip._store import View
from commontrip.starlette._picture import Parts, made

if TYPE_CHECKING:
    from commontrip._transition import Transition

HOUR = 3600.0
_MEMBERS = 10.0  # seconds after which the members are asked for again; they say that they are there as often
_LEARNING = 5.0  # seconds after a transition for which they are asked for at every look
_PATIENCE = 0.5  # seconds for all that follows the counts; what is left waits for the next look
_MOST, _LEAST, _IN_ALL = 500, 20, 2000  # transitions told: of one breaker, when others take the room, and of all

Past = dict[str, Parts]
"""Transitions by their epoch."""


class Fleet:
    """A look costs one round trip for 20 breakers (in a Cluster for each).

    For each breaker there are one more after a transition, two in each look of the 5 s that follow it, and two every
    10 s. How the store answers changes nothing for the breakers, and in local mode nothing is asked.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.answers = True
        """Whether the store answered the last look."""
        self.views: dict[str, View] = {}
        """What the store said last, also when it does not answer any more."""
        self.members: dict[str, dict[str, float | None]] = {}
        self.past: dict[str, Past] = {}
        self.news: dict[str, Past] = {}
        """What has come to the past and has not been told."""
        self._asked: dict[str, tuple[Transition, float]] = {}  # what members and past are of, and since when

    async def look(self, circuits: list[Circuit]) -> None:
        """Ask for what is not known or may have changed; at most a second."""
        self.answers = not circuits or not circuits[0].replica.line.down
        try:
            await self._look(circuits if self.answers else [])
        except StoreUnavailableError:
            self.answers = False

    async def _look(self, circuits: list[Circuit]) -> None:
        if not circuits:
            return
        replica, names = circuits[0].replica, [circuit.name for circuit in circuits]
        asks = [circuit.knowledge.ask(seed=False) for circuit in circuits]
        views = await replica.line.call("read", replica.store.read(asks), vital=False)
        self.views, end = dict(zip(names, views, strict=True)), time.monotonic() + _PATIENCE
        for circuit, view in zip(circuits, views, strict=True):
            if time.monotonic() < end:
                await self._look_closer(circuit, view)

    async def _look_closer(self, circuit: Circuit, view: View) -> None:
        name, held, now, replica = circuit.name, view.transition, time.monotonic(), circuit.replica
        if held is None:
            return
        then, at = self._asked.get(name, (None, 0.0))
        if then is None or then.epoch != held.epoch:
            await self._look_back(circuit, held, then, view.now - HOUR)
        elif now - at < _MEMBERS and view.now - held.since > _LEARNING:
            return
        self.members[name] = await replica.line.call("fleet", replica.store.fleet(name), vital=False)
        self._asked[name] = (held, now)

    async def _look_back(self, circuit: Circuit, held: "Transition", then: "Transition | None", since: float) -> None:
        others = sum(len(past) for name, past in self.past.items() if name != circuit.name)
        most = count = max(_LEAST, min(_MOST, _IN_ALL - others))
        if then and then.epoch.incarnation == held.epoch.incarnation:
            count = min(most, max(1, held.epoch.number - then.epoch.number))
        replica = circuit.replica
        found = await replica.line.call("history", replica.store.history(circuit.name, count), vital=False)
        self.add(circuit.name, [made(one, note) for one, note in reversed(found)], since=since, most=most)

    def add(self, name: str, found: Iterable[Parts], *, since: float, most: int = _MOST) -> None:
        """Add transitions to the past and to the news; forget those before `since` (Unix s) and beyond `most`.

        A note that is known stays: a look can be faster than this process's own word of the same transition.
        """
        past, news = self.past.get(name, {}), self.news.setdefault(name, {})
        for told in found:
            before = past.get(told["epoch"], {})
            one = before | told
            if one["since"] >= since and before != one:
                news[one["epoch"]] = past[one["epoch"]] = one
        young = [one for one in past.values() if one["since"] >= since]
        young.sort(key=lambda one: (one["since"], one["number"]))
        self.past[name] = {one["epoch"]: one for one in young[-most:]}

    def forget(self, names: Iterable[str]) -> None:
        """Forget breakers that are no more."""
        for name in names:
            for known in (self.views, self.members, self.past, self.news, self._asked):
                known.pop(name, None)
