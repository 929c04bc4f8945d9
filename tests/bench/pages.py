"""The pages in docs/ that a whole run writes: bench.md with its plot, and scaling.md."""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template

from tests.bench import fleet, plot, table
from tests.bench.calls import ROUNDS
from tests.bench.client import CONNECTIONS
from tests.bench.report import Report
from tests.bench.scaling import Scaling

_PACKAGES = ("aiobreaker", "interlock-cb", "purgatory", "pybreaker", "redis", "hiredis")
_TEMPLATES = Path(__file__).parent
_CPUINFO = Path("/proc/cpuinfo")


def write(report: Report, server: str, cores: int, folder: Path) -> list[Path]:
    """Write all pages and return where they are."""
    scaling = report.scaling
    assert report.calls
    assert report.fleet
    assert scaling
    folder.mkdir(exist_ok=True)
    words = {"machine": _machine(server, cores), "rounds": str(ROUNDS), "callers": str(CONNECTIONS)}
    plot.draw(report.calls, report.fleet, folder / "bench.svg")
    return [
        folder / "bench.svg",
        _fill(folder / "bench.md", words | _of_bench(report)),
        _fill(folder / "scaling.md", words | _of_scaling(report, scaling)),
    ]


def _fill(path: Path, words: dict[str, str]) -> Path:
    text = (_TEMPLATES / f"{path.name}.in").read_text()
    path.write_text(Template(text).substitute(words))
    return path


def _machine(server: str, cores: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    python = platform.python_version()
    day = datetime.now(UTC).date().isoformat()
    return f"{day}; {_processor()}, {cores} cores, {platform.system()}; Python {python}; {server}; {packages}"


def _processor() -> str:
    if sys.platform == "linux":
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _of_bench(report: Report) -> dict[str, str]:
    tables = [table.of_bounds(report.bounds()), *report.tables()]
    return {"beside": report.beside().markdown()} | {
        "tables": "\n\n".join(
            f"## {one.title}\n\n{one.markdown()}" for one in tables if one.title != report.beside().title
        )
    }


def _of_scaling(report: Report, scaling: Scaling) -> dict[str, str]:
    assert report.fleet
    usual, great, trip = report.fleet.usual, report.fleet.great, report.fleet.trip
    return {
        "table": scaling.table().markdown(),
        "real": f"{usual.real:,}",
        "usual": f"{usual.rate:,.0f}",
        "worst": f"{usual.worst:,.0f}",
        "cpu": f"{usual.cpu:.0%}",
        "great_size": f"{great.replicas:,}",
        "great": f"{great.rate:,.0f}",
        "most": f"{fleet.MOST:,}",
        "per_command": f"{scaling.cpu_per_command:.0f}",
        "per_subscriber": f"{scaling.per_subscriber:.2g}",
        "tellable": f"{scaling.tellable:,.0f}",
        "learned": f"{trip.seen['learned'] / 3:,.0f}",
        "probing": f"{trip.probing_rate:,.0f}",
        "probing_cpu": f"{trip.cpu:.0%}",
        "start_peak": f"{report.fleet.start_peak:,}",
    }
