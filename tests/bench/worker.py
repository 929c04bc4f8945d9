"""A process of the bench: `python -m tests.bench.worker ROLE SETTINGS`, and the other end of its pipes.

It says one JSON object a line and is told one word a line; it ends when it is told `end`, or when
whoever started it is gone.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_LONGEST = 1 << 26  # bytes in a line

Role = Callable[["Link", dict[str, Any]], Awaitable[None]]


class Link:
    """What a role has of the bench."""

    def __init__(self) -> None:
        """Read from standard input, in a thread that holds up no exit."""
        self._words: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        word = ""
        while word != "end":
            word = sys.stdin.readline().strip() or "end"
            loop.call_soon_threadsafe(self._words.put_nowait, word)

    async def told(self) -> str:
        """Return the next word."""
        return await self._words.get()

    def say(self, **said: object) -> None:
        """Say something."""
        print(json.dumps(said), flush=True)


class Worker:
    """A process, seen from the bench."""

    def __init__(self, process: Process) -> None:
        """Take a process whose pipes are open."""
        self._process = process

    @classmethod
    async def start(cls, role: str, settings: dict[str, Any]) -> "Worker":
        """Start one; `role` is module:function."""
        command = (sys.executable, "-m", "tests.bench.worker", role, json.dumps(settings))
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=_ROOT, limit=_LONGEST)
        return cls(process)

    async def heard(self, within: float = 60.0) -> dict[str, Any]:
        """Return what it says next."""
        assert self._process.stdout
        line = await asyncio.wait_for(self._process.stdout.readline(), within)
        if not line:
            raise RuntimeError("a process of the bench has ended before its time; see what it wrote above")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, word: str) -> None:
        """Tell it a word."""
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n".encode())

    async def close(self) -> None:
        """Kill it if it has not ended within two seconds of being told."""
        with contextlib.suppress(ConnectionError):
            self.tell("end")
        try:
            await asyncio.wait_for(self._process.wait(), 2)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def workers(role: str, settings: Sequence[dict[str, Any]]) -> AsyncIterator[list[Worker]]:
    """Start one process for each of the settings, wait until each has said something, and close them at the end."""
    started: list[Worker] = []
    try:
        for one in settings:
            started.append(await Worker.start(role, one))  # noqa: PERF401 - what was started must be closed
        await asyncio.gather(*(worker.heard() for worker in started))
        yield started
    finally:
        await asyncio.gather(*(worker.close() for worker in started))


async def _serve(role: str, settings: dict[str, Any]) -> None:
    module, _, function = role.partition(":")
    work: Role = getattr(importlib.import_module(f"tests.bench.{module}"), function)
    await work(Link(), settings)


if __name__ == "__main__":
    logging.getLogger("commontrip").addHandler(logging.NullHandler())
    asyncio.run(_serve(sys.argv[1], json.loads(sys.argv[2])))
