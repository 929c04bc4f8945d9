"""Two ways to run profile, side by side: which answers more, and what an answer costs each.

Whatever else the machine does must fall on both. So both processes run at the same time, and are asked in turns so
short that a slow moment meets both: A B B A is a pair. After some pairs both are started anew: how a process happens
to lie in memory is worth two percent for as long as it lives, and turns do not help against that. The figure is the
median of all pairs' ratios, which a pair that had bad luck does not move. The same is done with the time of a core
that an answer took, which a busy machine disturbs less.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.bench import client
from tests.bench.client import Run
from tests.bench.progress import say
from tests.bench.services import USERS, Environment, Service, running

STARTS = 7
"""How often both are started."""
_TURNS = 6  # pairs of turns with the same processes
_TURN = 0.1  # seconds
WARM = 4 * USERS
"""Answers before it counts: a user's first two cost more than those that only repeat them."""

Prepare = Callable[[Service, Service], Awaitable[None]]


@dataclass(slots=True)
class Pairs:
    """What came of them: the first side's and the second's, pair by pair."""

    runs: list[tuple[Run, Run]] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """The first side's answers a second, in the second's: the median."""
        return statistics.median(self.rates)

    @property
    def rates(self) -> list[float]:
        """Return that ratio, pair by pair."""
        return [one.rate / other.rate for one, other in self.runs]

    @property
    def cost(self) -> float:
        """The first side's time of a core for an answer, in the second's: the median."""
        return statistics.median(one.cost / other.cost for one, other in self.runs)

    def whole(self, side: int) -> Run:
        """Return all that one side did."""
        return sum((pair[side] for pair in self.runs), Run())

    def only(self, *sources: str) -> "Pairs":
        """Raise if a side has said anything else than this: then it was not what was to be measured."""
        for side, source in enumerate(sources):
            self.whole(side).only(source)
        return self


async def compare(
    what: str,
    one: Environment,
    other: Environment,
    *,
    prepare: Prepare | None = None,
    starts: int = STARTS,
    users: int = USERS,
    warm: int = WARM,
) -> Pairs:
    """Run profile in two environments, started so many times; `prepare` may do something when both are warm."""
    found = Pairs()
    asked = client.requests(users), client.requests(users)
    for number in range(starts):
        say(f"system: {what}: {number + 1} of {starts}")
        async with AsyncExitStack() as stack:
            starting = (stack.enter_async_context(running("profile", side)) for side in (one, other))
            first, second = await asyncio.gather(*starting)
            sides = (first, asked[0]), (second, asked[1])
            await asyncio.gather(*(_warm(*side, warm) for side in sides))
            if prepare:
                await prepare(first, second)
            for _ in range(_TURNS):
                runs = [await turn(*sides[side], _TURN) for side in (0, 1, 1, 0)]
                found.runs.append((runs[0] + runs[3], runs[1] + runs[2]))
    return found


async def _warm(service: Service, asked: Iterator[bytes], answers: int) -> None:
    while answers > 0:
        answers -= len((await client.ask(service.port, asked, _TURN)).times)


async def turn(service: Service, asked: Iterator[bytes], seconds: float, connections: int = client.CONNECTIONS) -> Run:
    """Ask one service for so many seconds, and look at what that cost it."""
    before = service.cpu
    run = await client.ask(service.port, asked, seconds, connections)
    run.cpu = service.cpu - before
    return run
