"""A fleet of real processes: the test's end of `tests.support.replica`."""

import asyncio
import base64
import contextlib
import json
import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from commontrip import Policy, Transition
from commontrip.redis import RedisStore
from tests.support.dependency import Dependency
from tests.support.waiting import PATIENCE, eventually

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A transition that a replica has applied."""

    breaker: str
    epoch: str
    state: str
    reason: str
    lag: float
    made: bool
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report of a replica."""

    kind: str
    breaker: str
    text: str


class Process:
    """One replica; `name` is its name in the fleet and at the dependency."""

    def __init__(self, name: str) -> None:
        """Prepare a process."""
        self.name = name
        self.seen: list[Seen] = []
        """The transitions it has told of."""
        self.reports: list[Reported] = []
        """What it has reported."""
        self.alive = False
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def start(self) -> Self:
        """Start it and return when it takes orders."""
        self._ready = asyncio.Event()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.replica"),
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.alive = True
        self._listening = asyncio.create_task(self._listen())
        await self._ready.wait()
        assert self.alive, f"replica {self.name} ended at its start"
        return self

    async def do(self, what: str, **how: Any) -> Any:
        """Give an order and return the answer; raise `RuntimeError` with what it raised there."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin
        order = json.dumps({"id": self._number, "do": what, **how})
        self._process.stdin.write(order.encode() + b"\n")
        return await answer

    async def kill(self) -> None:
        """End it at once (SIGKILL), and return when it is gone."""
        if self.alive:
            self._process.kill()
        await self._listening
        await self._process.wait()

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def frozen(self) -> None:
        """Wait until it has stopped itself."""
        flags = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT

        def stopped() -> bool:
            found = os.waitid(os.P_PID, self._process.pid, flags)
            return found is not None and found.si_code == os.CLD_STOPPED

        await eventually(stopped, f"replica {self.name} to stop")

    async def _listen(self) -> None:
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            self._hear(json.loads(line))
        self.alive = False
        self._ready.set()
        for answer in self._answers.values():
            answer.cancel()
        if self._process.stdin:
            self._process.stdin.close()

    def _hear(self, said: dict[str, Any]) -> None:
        match said.pop("event", ""):
            case "ready":
                self._ready.set()
            case "transition":
                self.seen.append(Seen(**said))
            case "report":
                self.reports.append(Reported(**said))
            case _:
                answer = self._answers.pop(said["id"])
                if answer.done():
                    return
                if "error" in said:
                    answer.set_exception(RuntimeError(f"replica {self.name}: {said['error']}"))
                else:
                    answer.set_result(said["answer"])


class Fleet:
    """`async with Fleet(8, dependency) as fleet`: processes that are started at once, and killed at the end."""

    def __init__(self, size: int, dependency: Dependency) -> None:
        """Prepare so many, all of which call this dependency."""
        self._dependency = dependency
        self._made = 0
        self.all: list[Process] = [self._process() for _ in range(size)]
        """Those that were not killed by `kill`, in the order of their start."""
        self.killed: list[Process] = []

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(process.start() for process in self.all))
        return self

    async def __aexit__(self, *raised: object) -> None:
        await asyncio.gather(*(process.kill() for process in self.all))

    def __getitem__(self, name: str) -> Process:
        """Return a process by its name."""
        return next(process for process in self.all if process.name == name)

    async def join(self, url: str, prefix: str, policies: Mapping[str, Policy], **how: Any) -> None:
        """Let all enter the fleet on a store."""
        await asyncio.gather(*(self.enter(process, url, prefix, policies, **how) for process in self.all))

    async def enter(self, process: Process, url: str, prefix: str, policies: Mapping[str, Policy], **how: Any) -> None:
        """Let one enter; `how` is a `skew` of its clock, a `layout`, or a setting of `Breakers`.

        No busy machine uses up their store budget, unless it is set.
        """
        packed = {name: base64.b64encode(pickle.dumps(policy)).decode() for name, policy in policies.items()}
        how = {"store_budget": PATIENCE} | how
        how |= {"name": process.name, "port": self._dependency.port, "policies": packed}
        await process.do("join", url=url, prefix=prefix, **how)

    async def do(self, what: str, **how: Any) -> list[Any]:
        """Give all the same order, and return their answers."""
        return await asyncio.gather(*(process.do(what, **how) for process in self.all))

    async def kill(self, process: Process) -> None:
        """Kill one for good."""
        self.all.remove(process)
        self.killed.append(process)
        await process.kill()

    async def spare(self) -> Process:
        """Start one more."""
        process = self._process()
        await process.start()
        self.all.append(process)
        return process

    def seen(self, breaker: str = "", *, state: str = "") -> list[Seen]:
        """Return the transitions that the replicas have told of."""
        return [
            seen
            for process in self.all + self.killed
            for seen in process.seen
            if breaker in {"", seen.breaker} and state in {"", seen.state}
        ]

    async def all_see(self, breaker: str, state: str, within: float = 10.0) -> None:
        """Wait until the last transition that each has told of led to this state."""

        def seen() -> bool:
            last = [
                next((seen.state for seen in reversed(one.seen) if seen.breaker == breaker), "") for one in self.all
            ]
            return set(last) == {state}

        await eventually(seen, f"all replicas to see {breaker} {state}", within)

    async def outcomes(self) -> Counter[str]:
        """Return how the calls ended since the last time; assert that callers saw nothing strange."""
        total: Counter[str] = Counter()
        for told in await self.do("tell"):
            assert not told["strange"]
            total.update(told["outcomes"])
        return total

    def _process(self) -> Process:
        self._made += 1
        return Process(f"r{self._made}")


class Lag:
    """`async with Lag() as lag`: how late (s) timers came at worst, here and so, more or less, in all processes.

    What the machine does not run for a while cannot keep a time; bounds on time allow for that much, and no more.
    """

    def __init__(self) -> None:
        """Measure nothing yet."""
        self.worst = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._task.cancel()

    async def _measure(self) -> None:
        step = 0.002
        while True:
            at = time.monotonic()
            await asyncio.sleep(step)
            self.worst = max(self.worst, time.monotonic() - at - step)


async def history(url: str, prefix: str, breaker: str) -> list[Transition]:
    """Return the transitions that the stream holds, the oldest first."""
    store = RedisStore.from_url(url, prefix=prefix)
    try:
        found = await store.history(breaker, 10_000)
    finally:
        with contextlib.suppress(OSError):
            await store.aclose()
    return [transition for transition, _ in reversed(found)]
