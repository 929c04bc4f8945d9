"""What Redis says of one breaker at one moment, and what follows from it."""

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from commontrip._state import Override, State
from commontrip._store import View
from commontrip._transition import Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A breaker as it stands in Redis. Times are Unix seconds by Redis's clock."""

    name: str
    view: View
    window: float = 0.0
    """Seconds over which calls are counted; 0 if none are."""
    note: str = ""
    """Who gave the order in force, and why."""
    replicas: dict[str, float | None] = field(default_factory=dict)
    """Who is in the fleet, and how late (s) each learned of the transition; None if it came later, or has not."""
    at: float = field(default_factory=time.monotonic)
    """When it was read, by this machine's monotonic clock."""

    @property
    def transition(self) -> Transition | None:
        """What made it so; None if there is no such breaker."""
        return self.view.transition

    @property
    def epoch(self) -> str:
        """The epoch; '' if there is no such breaker."""
        return str(self.transition.epoch) if self.transition else ""

    @property
    def now(self) -> float:
        """Redis's clock now, as far as known."""
        return self.view.now + time.monotonic() - self.at

    @property
    def remaining(self) -> float:
        """Seconds of cooldown left; 0 unless OPEN."""
        made = self.transition
        return _left(made, made.until, self.now) if made and made.state == State.OPEN else 0.0

    @property
    def ordered(self) -> float:
        """Seconds for which the operator's order still holds; 0 without."""
        return _left(self.transition, self.transition.override_until, self.now) if self.transition else 0.0

    @property
    def order(self) -> Override | None:
        """The operator's order in force."""
        return self.transition.override if self.transition and self.ordered > 0 else None

    @property
    def aware(self) -> int:
        """How many replicas heard of this epoch when it was made; who came later is not among them."""
        return sum(lag is not None for lag in self.replicas.values())

    def plain(self) -> dict[str, Any]:
        """Return what `--json` prints; the names are those of the service's `/breakers/{name}`."""
        made, view = self.transition, self.view
        return {
            "name": self.name,
            "state": made.state if made else None,
            "override": self.order,
            "override_remaining": round(self.ordered, 3),
            "note": self.note if self.order else "",
            "epoch": self.epoch,
            "transition": plain(made) if made else None,
            "counts": dataclasses.asdict(view.counts),
            "window": self.window,
            "remaining": round(self.remaining, 3),
            "retry_after": view.retry_after,
            "probes_in_flight": view.in_flight,
            "by_hand": view.by_hand,
            "replicas": self.replicas,
        }


def plain(made: Transition) -> dict[str, Any]:
    """Return a transition as JSON has it."""
    return {one.name: getattr(made, one.name) for one in dataclasses.fields(made)} | {"epoch": str(made.epoch)}


def _left(made: Transition | None, until: float, now: float) -> float:
    # After a failover the clock may have gone back: nothing lasts longer than it was meant to.
    return max(0.0, min(until - now, made.cooldown)) if made else 0.0
