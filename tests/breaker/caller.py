"""One replica's requests to a store, with all that a test does not care about filled in."""

import asyncio
import itertools
import secrets
from typing import Any

from commontrip import State, Store
from commontrip._counts import Run
from commontrip._store import Ask, Batch, Change, Lease, Settlement, View
from tests.support.waiting import eventually

GRID = ".oo.o.c.."
"""Two probes: closes when both have succeeded, re-opens when one has failed."""

_minted = itertools.count()


def mint() -> str:
    """Return a token that nobody else has."""
    return f"{secrets.token_hex(6)}{next(_minted):04x}"


def run(calls: str, *, slow: int = 0, retry_after: float = 0.0) -> Run:
    """Sum up calls in their order, `f` a failure and `s` a success."""
    streaks = [len(streak) for streak in calls.split("s")]
    return Run(
        calls=len(calls),
        failures=calls.count("f"),
        slow=slow,
        first=streaks[0],
        longest=max(streaks),
        last=streaks[-1],
        unbroken="s" not in calls,
        retry_after=retry_after,
    )


class Caller:
    """A replica that asks for one breaker."""

    def __init__(self, store: Store, name: str = "auth", replica: str = "r1") -> None:
        """Ask `store` for the breaker `name`."""
        self.store = store
        self.name = name
        self.replica = replica
        self._numbers = itertools.count(1)

    def ask(self, **fields: Any) -> Ask:
        """Make a request to read."""
        given: dict[str, Any] = {"seed": False, "window": 60.0, "cooldown": 30.0} | fields
        return Ask(name=self.name, token=mint(), replica=self.replica, **given)

    async def read(self, **fields: Any) -> View:
        """Read."""
        return (await self.store.read([self.ask(**fields)]))[0]

    async def seed(self) -> str:
        """Make the breaker if it is not there; return its epoch."""
        return epoch(await self.read(seed=True))

    def batch(self, calls: str | Run = "", *, epoch: str, **fields: Any) -> Batch:
        """Make a batch, numbered one above the last."""
        return Batch(
            name=self.name,
            epoch=epoch,
            number=fields.pop("number", 0) or next(self._numbers),
            replica=self.replica,
            run=run(calls) if isinstance(calls, str) else calls,
            **{"window": 60.0, "show_run": False} | fields,
        )

    async def record(self, calls: str | Run = "", **fields: Any) -> View:
        """Record calls in the epoch that there is, if no other is named."""
        fields["epoch"] = fields.get("epoch") or await self.epoch()
        return (await self.store.record([self.batch(calls, **fields)]))[0]

    async def change(self, to: State, **fields: Any) -> View:
        """Make a transition from the epoch that there is, if no other is expected."""
        if "expected" not in fields:
            fields["expected"] = await self.epoch()
        given: dict[str, Any] = {"token": mint(), "reason": "tripped", "replica": self.replica} | fields
        return await self.store.transition(Change(name=self.name, to=to, **given))

    async def open(self, seconds: float = 30.0, **fields: Any) -> View:
        """Make a transition to OPEN, for so many seconds."""
        return await self.change(State.OPEN, **{"remaining": seconds, "cooldown": seconds, "opens": 1} | fields)

    async def half_open(self, lease: str = "l1", **fields: Any) -> View:
        """Open with a cooldown that is over, and take the first place of the round."""
        await self.open(0.001)
        granted = await self.lease(lease, **fields)
        while granted.status == "open":
            await asyncio.sleep(0.001)
            granted = await self.lease(lease, **fields)
        return granted

    async def lease(self, lease: str = "l1", **fields: Any) -> View:
        """Ask for a place among two probes."""
        given: dict[str, Any] = {"seconds": 5.0, "probes": 2, "token": mint(), "replica": self.replica} | fields
        return await self.store.lease(Lease(name=self.name, lease=lease, **given))

    async def settle(self, lease: str = "l1", kind: str = "s", **fields: Any) -> View:
        """Give a place of the running round back."""
        fields["epoch"] = fields.get("epoch") or await self.epoch()
        given: dict[str, Any] = {"probes": 2, "grid": GRID, "token": mint(), "replica": self.replica}
        given |= {"cooldown": 30.0, "opens": 2} | fields
        return await self.store.settle(Settlement(name=self.name, lease=lease, kind=kind, **given))

    async def epoch(self) -> str:
        """Return the epoch that there is, '' without."""
        return epoch(await self.read())

    async def past(self, moment: float) -> None:
        """Wait until the store's clock has passed a moment."""
        left = 0.0
        while left >= 0:
            await asyncio.sleep(left + 0.002)
            left = moment + 0.001 - (await self.read()).now  # beyond all doubt: a float is no exact ms


def epoch(view: View) -> str:
    """Return the epoch of what a store said, '' if there is nothing."""
    return str(view.transition.epoch) if view.transition else ""


def record(view: View) -> str:
    """Return the line that the store holds of what it said, '' if there is nothing."""
    return view.transition.record() if view.transition else ""


class Ears:
    """What was heard, and how often a gap was reported."""

    def __init__(self) -> None:
        """Hear nothing yet."""
        self.heard: list[tuple[str, str]] = []
        self.gaps = 0

    def hear(self, name: str, record: str) -> None:
        """Note a transition."""
        self.heard.append((name, record))

    def gap(self) -> None:
        """Note a gap."""
        self.gaps += 1

    async def listen(self) -> None:
        """Wait until nothing more can be missed."""
        await eventually(lambda: self.gaps > 0, "the subscription", within=5)
