"""What a fleet of any size sends to Redis, and what that costs there: a model, held against what was measured."""

from dataclasses import dataclass

from tests.bench.bounds import Bound
from tests.bench.fleet import Fleet, Measured
from tests.bench.scripts import RECORD, REPLICAS, Scripts
from tests.bench.server import SLOW
from tests.bench.table import Table

RATE = 5_000.0
"""Commands a second that the fleet shares (`fleet_rate`)."""
_PACES = {"record": (0.1, 0.65), "MGET": (0.8, 0.2), "presence": (10.0, 0.05)}
"""Seconds between two in a small fleet, and the share of the rate that all of them keep in a large one."""
_SIZES = (10, 50, 200, 350, 1_000, 2_000, 5_000, 10_000)
_TOLERANCE = 0.15


def interval(command: str, replicas: int) -> float:
    """Return the seconds between two such commands of one replica."""
    least, share = _PACES[command]
    return max(least, replicas / (RATE * share))


def rates(replicas: int) -> dict[str, float]:
    """Return the fleet's commands a second under steady load.

    A replica looks only at what it has not heard of for a tenth of a second, and the answer to a batch is news.
    """
    found = {command: replicas / interval(command, replicas) for command in _PACES}
    found["MGET"] *= 1 - _PACES["record"][0] / interval("record", replicas)
    return found


@dataclass(slots=True)
class Scaling:
    """The model with the times measured at the server."""

    fleet: Fleet
    scripts: Scripts

    def bounds(self) -> list[Bound]:
        """Say how far the model is from what was measured."""
        return [
            Bound(
                f"the model for {one.replicas:,} replicas: away from the measured commands a second",
                self._off(one),
                _TOLERANCE,
            )
            for one in (self.fleet.usual, self.fleet.great)
        ]

    def _off(self, measured: Measured) -> float:
        return abs(sum(rates(measured.replicas).values()) / measured.rate - 1)

    @property
    def cpu_per_command(self) -> float:
        """Microseconds of the server's processor for a command under load, network and all."""
        return self.fleet.usual.cpu / self.fleet.usual.rate * 1e6

    @property
    def per_subscriber(self) -> float:
        """Microseconds by which one more subscriber lengthens a transition."""
        alone = self.scripts.timed["transition, won"].median
        return max(0.0, min(self.fleet.trip.commits) - alone) / self.fleet.usual.real

    @property
    def tellable(self) -> float:
        """How many replicas a transition can tell within the time that a command may take."""
        alone = self.scripts.timed["transition, won"].median
        return (SLOW - alone) / self.per_subscriber if self.per_subscriber else float("inf")

    def busy(self, replicas: int) -> float:
        """Return the share of a core that the scripts alone take."""
        timed = self.scripts.timed
        times = {
            "record": timed[RECORD].median,
            "MGET": 2.0,
            "presence": timed[f"presence, {REPLICAS} replicas"].median,
        }
        return sum(rate * times[command] for command, rate in rates(replicas).items()) / 1e6

    def table(self) -> Table:
        """Extrapolate."""
        columns = (
            "replicas",
            "batches a second",
            "looks a second",
            "heartbeats a second",
            "together",
            "scripts: share of a core",
            "with the network",
            "an outcome waits at most, s",
            "a transition at the server, ms",
        )
        table = Table("Redis's cost by size of the fleet", columns)
        for replicas in _SIZES:
            by = rates(replicas)
            together = sum(by.values())
            table.add(
                f"{replicas:,}",
                by["record"],
                by["MGET"],
                by["presence"],
                together,
                f"{self.busy(replicas):.1%}",
                f"{together * self.cpu_per_command / 1e6:.1%}",
                interval("record", replicas),
                (self.scripts.timed["transition, won"].median + replicas * self.per_subscriber) / 1000,
            )
        return table
