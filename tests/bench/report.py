"""Everything that one run has measured, and the tables made of it."""

from dataclasses import dataclass

from tests.bench.bounds import Bound
from tests.bench.calls import MEMORY, REDIS, SLOW, Costs
from tests.bench.commands import Commands
from tests.bench.fleet import Fleet
from tests.bench.idle import SIZES, Idle
from tests.bench.load import Load
from tests.bench.memory import BREAKERS, MEGABYTE, Memory
from tests.bench.peers import CALL, CONTEXT, DECORATED, PEERS, REJECTED
from tests.bench.scaling import Scaling
from tests.bench.scripts import Scripts
from tests.bench.server import quantile
from tests.bench.system import System
from tests.bench.table import Table
from tests.bench.telemetry import Told
from tests.bench.trip import REPLICAS as PROCESSES
from tests.bench.trip import Trips


@dataclass(slots=True, kw_only=True)
class Report:
    """What was measured; None is what was not asked for."""

    calls: Costs | None = None
    commands: Commands | None = None
    idle: Idle | None = None
    load: Load | None = None
    scripts: Scripts | None = None
    trip: Trips | None = None
    memory: Memory | None = None
    fleet: Fleet | None = None
    telemetry: Told | None = None
    system: System | None = None

    @property
    def parts(self) -> list[Costs | Commands | Idle | Load | Scripts | Trips | Memory | Fleet | Told | System]:
        """Return what there is."""
        of_library = (self.calls, self.commands, self.idle, self.load, self.scripts, self.trip, self.memory, self.fleet)
        return [part for part in (*of_library, self.telemetry, self.system) if part]

    @property
    def scaling(self) -> Scaling | None:
        """The model, if what it stands on was measured."""
        return Scaling(self.fleet, self.scripts) if self.fleet and self.scripts else None

    def bounds(self) -> list[Bound]:
        """Return every bound."""
        found = [bound for part in self.parts for bound in part.bounds()]
        return found + (self.scaling.bounds() if self.scaling else [])

    def tables(self) -> list[Table]:
        """Return what can be shown."""
        tables = [self.beside(), self.others()]
        if self.load:
            tables.append(load_table(self.load))
        if self.scripts:
            tables.append(script_table(self.scripts))
        if self.system:
            tables += [pair_table(self.system), run_table(self.system)]
        return [table for table in tables if table.rows]

    def beside(self) -> Table:
        """Compare the libraries: the one table."""
        columns = (
            "",
            "decorated, µs",
            "`call`, µs",
            "context manager, µs",
            "rejection, µs",
            "commands a call, closed",
            "open",
            "commands a second, idle, 1 breaker",
            f"{SIZES[1]:,} breakers",
        )
        table = Table("Beside others: µs a call over the bare call, and commands to Redis", columns)
        for peer in (*PEERS, SLOW):
            for store in (MEMORY, REDIS):
                cells = self._costs(peer, store) + self._traffic(peer, store)
                if any(cell is not None for cell in cells):
                    table.add(f"{peer}, {store}", *cells)
        return table

    def _costs(self, peer: str, store: str) -> list[float | None]:
        over = self.calls.over if self.calls else {}
        return [over.get((peer, store, form)) for form in (DECORATED, CALL, CONTEXT, REJECTED)]

    def _traffic(self, peer: str, store: str) -> list[float | None]:
        if store != REDIS:
            return [None] * 4
        commands, idle = self.commands or Commands(), self.idle or Idle()
        return [
            commands.closed.get(peer),
            commands.refused.get(peer),
            *(idle.rates.get((peer, size)) for size in SIZES),
        ]

    def others(self) -> Table:
        """List the figures that have no other place."""
        table = Table("Further figures", ("", "figure", "unit"))
        for figures in (self._of_calls(), self._of_trips(), self._of_memory(), self._of_fleet(), self._of_telemetry()):
            for name, value, unit in figures:
                table.add(name, value, unit)
        return table

    def _of_calls(self) -> list[tuple[str, float, str]]:
        if not self.calls:
            return []
        bare = [(f"the bare loop: {name}", cost, "µs") for name, cost in self.calls.bare.items()]
        return [*bare, ("a whole rejection, in whole closed calls", self.calls.rejection_ratio(), "")]

    def _of_telemetry(self) -> list[tuple[str, float, str]]:
        return self.telemetry.figures() if self.telemetry else []

    def _of_trips(self) -> list[tuple[str, float, str]]:
        if not self.trip:
            return []
        last, lags = self.trip.last_call, self.trip.lags
        return [
            (f"{PROCESSES} processes: last call after the commit, p50", 1000 * quantile(last, 0.5), "ms"),
            (f"{PROCESSES} processes: last call after the commit, p99", 1000 * quantile(last, 0.99), "ms"),
            (f"{PROCESSES} processes: commit to applied, p50", 1000 * quantile(lags, 0.5), "ms"),
            (f"{PROCESSES} processes: commit to applied, p99", 1000 * quantile(lags, 0.99), "ms"),
            (f"{PROCESSES} processes: calls that the dependency has seen", self.trip.calls, ""),
        ]

    def _of_memory(self) -> list[tuple[str, float, str]]:
        taken = self.memory.taken if self.memory else {}
        return [
            (f"{BREAKERS:,} breakers, {when}: {how}", value / MEGABYTE, "MB") for (how, when), value in taken.items()
        ]

    def _of_fleet(self) -> list[tuple[str, float, str]]:
        if not self.fleet:
            return []
        usual, great, trip = self.fleet.usual, self.fleet.great, self.fleet.trip
        return [
            (f"{usual.replicas:,} replicas: real ones", usual.real, ""),
            (f"{usual.replicas:,} replicas: commands a second", usual.rate, ""),
            *((f"{usual.replicas:,} replicas: {name} a second", rate, "") for name, rate in usual.rates.items()),
            (f"{usual.replicas:,} replicas: the server's share of a core", usual.cpu, ""),
            (f"{usual.replicas:,} replicas starting: commands in the worst second", self.fleet.start_peak, ""),
            (f"{great.replicas:,} replicas ({great.real:,} real): commands a second", great.rate, ""),
            (f"{usual.real:,} replicas, a round of probes that hang: commands a second", trip.probing_rate, ""),
            (f"{usual.real:,} replicas, a round of probes that hang: share of a core", trip.cpu, ""),
        ]


def load_table(load: Load) -> Table:
    """List what one replica sends."""
    columns = ("one replica under load", "batches a second", "looks a second", "further commands", "allowed")
    table = Table("Commands to Redis", columns)
    for kind, loaded in load.kinds.items():
        table.add(kind, loaded.rate("record"), loaded.rate("MGET"), float(loaded.others), float(loaded.allowed))
    return table


def script_table(scripts: Scripts) -> Table:
    """List how long the server works."""
    table = Table("Time at the server, µs", ("what", "median", "p99", "slowest"))
    for name, timed in scripts.timed.items():
        table.add(name, timed.median, timed.p99, max(timed.all, default=timed.median))
    return table


def pair_table(system: System) -> Table:
    """List what profile does with something and without it."""
    columns = (
        "profile with … and without",
        "requests a second, with",
        "without",
        "ratio",
        "lowest",
        "highest",
        "time of a core for a request, with, µs",
        "without, µs",
        "ratio",
        "share of a core",
    )
    table = Table("Profile, side by side", columns)
    for name, pairs in system.pairs.items():
        one, other = pairs.whole(0), pairs.whole(1)
        rates = (one.rate, other.rate, pairs.throughput, min(pairs.rates), max(pairs.rates))
        table.add(name, *rates, 1e6 * one.cost, 1e6 * other.cost, pairs.cost, one.cpu / one.seconds)
    return table


def run_table(system: System) -> Table:
    """List what the whole system does."""
    table = Table("Through gateway, profile and auth", ("", "requests a second", "p50, ms", "p99, ms"))
    for name, run in system.runs.items():
        table.add(name, run.rate, 1000 * quantile(run.times, 0.5), 1000 * quantile(run.times, 0.99))
    return table
