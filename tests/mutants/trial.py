"""One trial: the tests of a mutant, on a copy of the project that holds its fault."""

import asyncio
import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.faults import Mutant

_PROJECT = Path(__file__).parents[2]
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=30")
_WHERE = "import commontrip, tests; print(commontrip.__file__, tests.__file__, sep='\\n')"
_SHOWN = 3000  # characters of what pytest says
LONGEST = 180.0
"""Seconds that the tests of one mutant, or of all, may take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of it. Without `killed_by` and `wrong` all tests were green."""

    seconds: float
    killed_by: str = ""
    wrong: str = ""
    """Why it proves nothing."""


@contextlib.contextmanager
def copy(source: Path = _PROJECT) -> Iterator[Path]:
    """Copy what the tests need to a folder of its own, which goes with the block."""
    with tempfile.TemporaryDirectory(prefix="commontrip-mutant-") as folder:
        target = Path(folder).resolve()
        for part in ("src", "tests", "apps"):
            shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "pyproject.toml", target)
        yield target


def plant(mutant: Mutant, project: Path) -> None:
    """Put the fault into a copy; a `ValueError` if there is no place for it, or nothing that can be run."""
    file = project / mutant.place
    text = mutant.apply(file.read_text())
    if file.suffix == ".py":
        try:
            compile(text, mutant.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"{mutant.file} does not compile: {error}") from error
    file.write_text(text)


async def run(project: Path, tests: Sequence[str]) -> Verdict:
    """Run tests in a copy until one is red."""
    started = time.monotonic()

    def verdict(killed_by: str = "", wrong: str = "") -> Verdict:
        return Verdict(time.monotonic() - started, killed_by, wrong)

    _, where = await _python(project, "-c", _WHERE)
    if not all(line.startswith(f"{project}{os.sep}") for line in where.split()):
        return verdict(wrong=f"it is not the copy in {project} that is imported: {where}")
    try:
        async with asyncio.timeout(LONGEST):
            code, said = await _python(project, *_PYTEST, *tests)
    except TimeoutError:
        return verdict(wrong=f"no end within {LONGEST:g} s")
    red = [line.split(" - ")[0] for line in said.splitlines() if line.startswith("FAILED ")]
    if code == 0:
        return verdict()
    if re.search(r"[^@]user_script:", said):
        return verdict(wrong=f"the script cannot be run:\n{said[-_SHOWN:]}")
    if code != 1 or not red:
        return verdict(wrong=f"the tests cannot be run:\n{said[-_SHOWN:]}")
    return verdict(killed_by=red[0].rpartition("::")[2])


async def _python(project: Path, *arguments: str) -> tuple[int, str]:
    """Run Python in a copy, as its tests run it for their replicas; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        await _end(process)
    return process.returncode or 0, said.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it if it runs, with time to stop its servers."""
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), 10)
