"""What a store must do: count, compare and record. Policy is never decided here.

Every method is one round trip (in a Redis Cluster one per breaker), is idempotent by number or token, and
raises `StoreUnavailableError` (`StoreSilentError` if nobody knows whether it was done) and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from commontrip._counts import Counts, Run
from commontrip._state import Override, State
from commontrip._transition import Transition

T = TypeVar("T")

TOO_OLD = 1.0
"""Seconds after which facts are too old to decide on."""


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the items in their order, so many at a time."""
    return [items[i : i + size] for i in range(0, len(items), size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the store said: how the request went, and what holds now."""

    status: str
    """What became of the request; each method says which words it uses."""
    transition: Transition | None
    """The transition that began the current epoch; None if there is nothing."""
    now: float
    """The store's clock, Unix seconds."""
    by_hand: State | None = None
    """A state that somebody SET and no transition has taken up yet."""
    mended: str = ""
    """Which keys held garbage and were repaired."""
    counts: Counts = field(default_factory=Counts)
    retry_after: float = 0.0
    """Seconds for which the dependency still wants to be left alone."""
    succeeded: int = 0
    failed: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Read a breaker; with `seed`, make its keys if there are none (an OPEN found there lasts `cooldown`)."""

    name: str
    seed: bool
    token: str
    replica: str
    window: float
    cooldown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Outcomes of one replica in one epoch. `number` rises by batch and replica; not counted after `deadline`."""

    name: str
    epoch: str
    number: int
    replica: str
    run: Run
    window: float
    show_run: bool
    """Whether the readable count is the current run of failures, not the window's."""
    deadline: float = 0.0
    """By the store's clock; 0 for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A transition to make if `expected` is still the epoch ('' = there is none) and the facts are young enough."""

    name: str
    expected: str
    to: State
    token: str
    reason: str
    replica: str
    remaining: float = 0.0
    """Seconds that it stays OPEN."""
    cooldown: float = 0.0
    opens: int = 0
    failures: int = 0
    calls: int = 0
    error: str = ""
    cause: str = ""
    decided_at: float = 0.0
    """When the facts were, by the store's clock; 0 if age does not matter."""
    floor: int = -1
    """The highest number that the caller remembers."""
    incarnation: str = ""
    override: Override | None = None
    override_for: float = 0.0
    note: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A place among the probes: asked for, and renewed under the same id.

    `renew` says that the probe runs: it keeps its place in any state, takes it again if it was lost, and if that
    has gone to another, fills a place of its own that no longer counts for the verdict.
    """

    name: str
    lease: str
    seconds: float
    probes: int
    token: str
    replica: str
    cause: str = ""
    renew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a probe did: `kind` is s (succeeded), f (failed) or n (neutral)."""

    name: str
    lease: str
    epoch: str
    kind: str
    probes: int
    grid: str
    token: str
    replica: str
    cooldown: float
    opens: int
    error: str = ""
    cause: str = ""


class Store(Protocol):
    """One circuit's memory, shared by the fleet. Safe to share between tasks of one event loop."""

    ttl: float
    """Seconds for which a breaker that nobody uses is remembered, on top of its cooldown."""

    async def start(self, heard: Callable[[str, str], None], gap: Callable[[], None]) -> None:
        """Connect and listen: `heard(name, record)` at each transition, `gap()` whenever some may have been missed."""

    async def aclose(self) -> None:
        """Stop listening and disconnect."""

    def commands(self, operation: str, breakers: int) -> int:
        """Return how many commands it is to `read`, `record` or `look` at so many breakers, for the fleet's rate."""

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        """Say what there is: ok, new (seeded), missing, ext (set by hand)."""

    async def record(self, batches: Sequence[Batch]) -> list[View]:
        """Count outcomes: ok, dup (counted before), late, old (another epoch), missing, ext."""

    async def transition(self, change: Change) -> View:
        """Change the state: won (also when repeated), lost, stale (facts too old), ext."""

    async def lease(self, lease: Lease) -> View:
        """Ask for a probe's place: granted, full, open (not due), closed, missing, ext."""

    async def settle(self, settlement: Settlement) -> View:
        """Give it back and count: counted, gone (the lease had run out), old (another round), missing, ext."""

    async def look(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return state and record of each as they stand, '' where there is none; touches nothing."""

    async def history(self, name: str, count: int) -> list[tuple[Transition, str]]:
        """Return the last `count` transitions, the newest first, each with its note."""

    async def presence(self, replica: str, seconds: float) -> int:
        """Say that a replica is there for `seconds` (0 = it leaves); return the size of the fleet."""

    async def learned(self, name: str, epoch: str, replica: str, lag: float) -> int:
        """Note how late a replica applied a transition; return how many have, 0 if the epoch is over."""

    async def told(self, name: str, epochs: Sequence[str]) -> None:
        """Note that transitions have been told to whoever keeps them outside."""

    async def untold(self, name: str, ages: tuple[float, float], turn: float) -> list[Transition]:
        """Return the transitions of these ages (s) that nobody has told of; for `turn` seconds nobody else gets them.

        A store that ends with its process has none.
        """

    async def fleet(self, name: str) -> dict[str, float | None]:
        """Return who is in the fleet, each with how late it learned of the current epoch; None if it has not."""
