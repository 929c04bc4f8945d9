"""Plant the faults of `faults.py` one by one, and see a test go red for each."""

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path

from tests.mutants import trial
from tests.mutants.faults import MUTANTS, Mutant
from tests.mutants.trial import Verdict

_AT_ONCE = 3


def _wanted() -> list[Mutant]:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("name", nargs="*", help="only mutants whose name holds this; without it all")
    names: list[str] = parser.parse_args().name
    wanted = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    if not wanted:
        parser.error(f"no mutant is called so; there are: {', '.join(mutant.name for mutant in MUTANTS)}")
    return wanted


async def _judge(mutants: list[Mutant], original: Path) -> bool:
    """Try all mutants on copies; return whether each was killed."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def try_one(mutant: Mutant) -> bool:
        async with free:
            verdict = await _try(mutant, original)
        print(_line(mutant, verdict), flush=True)
        return bool(verdict.killed_by)

    return all(await asyncio.gather(*map(try_one, mutants)))


async def _try(mutant: Mutant, original: Path) -> Verdict:
    with trial.copy(original) as project:
        try:
            trial.plant(mutant, project)
        except ValueError as error:
            return Verdict(0.0, wrong=str(error))
        return await trial.run(project, mutant.witnesses)


def _line(mutant: Mutant, verdict: Verdict) -> str:
    if verdict.wrong:
        return f"NO PROOF  {mutant.name}: {verdict.wrong}"
    if not verdict.killed_by:
        return f"SURVIVED  {mutant.name}: all green in {verdict.seconds:.1f} s: {', '.join(mutant.tests)}"
    return f"killed    {mutant.name}: by {verdict.killed_by} in {verdict.seconds:.1f} s"


async def _run(mutants: list[Mutant]) -> int:
    started = time.monotonic()
    with trial.copy() as original:
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.witnesses))
        print(f"{len(mutants)} mutants; first their {len(tests)} tests without them", flush=True)
        verdict = await trial.run(original, tests)
        if verdict.killed_by or verdict.wrong:
            print(f"NO PROOF  red without a mutant: {verdict.killed_by or verdict.wrong}")
            return 1
        print(f"green     all tests in {verdict.seconds:.1f} s", flush=True)
        killed = await _judge(mutants, original)
    took = time.monotonic() - started
    print(f"{'every mutant was killed' if killed else 'NOT every mutant was killed'}, in {took:.0f} s")
    return 0 if killed else 1


def main() -> int:
    """Return 0 if every mutant was killed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(_run(_wanted()))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
