"""Run the bench: `python -m tests.bench [part …]`; without parts all, and then the pages in docs/ are written."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.bench import (
    calls,
    commands,
    fleet,
    idle,
    load,
    memory,
    pages,
    scripts,
    server,
    system,
    table,
    telemetry,
    trip,
)
from tests.bench.progress import say
from tests.bench.report import Report
from tests.support.servers import Server

_PARTS: dict[str, Callable[[Server], Awaitable[Any]]] = {
    "calls": calls.measure,
    "commands": commands.measure,
    "idle": idle.measure,
    "load": load.measure,
    "scripts": scripts.measure,
    "trip": trip.measure,
    "memory": memory.measure,
    "fleet": fleet.measure,
    "telemetry": telemetry.measure,
    "system": system.measure,
}
_DOCS = Path(__file__).parents[2] / "docs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[[], *_PARTS], help="measure only this; writes no pages")
    parser.add_argument("--docs", type=Path, default=_DOCS, help="where a whole run writes its pages")
    return parser.parse_args()


async def _measure(names: list[str]) -> tuple[Report, str]:
    report = Report()
    with server.prepare() as running:
        say(f"bench: {', '.join(names)}; on {running.version}, {os.cpu_count()} cores")
        for name in names:
            setattr(report, name, await _PARTS[name](running))
    return report, running.version


def main() -> int:
    """Measure, show, write; return 1 if a bound does not hold."""
    logging.getLogger("commontrip").addHandler(logging.NullHandler())
    wanted = _arguments()
    report, version = asyncio.run(_measure(wanted.part or list(_PARTS)))
    bounds = report.bounds()
    for one in (*report.tables(), table.of_bounds(bounds)):
        one.show()
    if not wanted.part:
        for path in pages.write(report, version, os.cpu_count() or 1, wanted.docs):
            say(f"wrote {path}")
    broken = [bound for bound in bounds if not bound.holds]
    for bound in broken:
        print(f"BROKEN {bound}", file=sys.stderr)
    say(f"{len(bounds) - len(broken)} of {len(bounds)} bounds hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
