"""Processes that end with this one, however it ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import groupby
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
Tell = Callable[[str, str], None]
"""Called with a child's name and a line that it wrote."""

_GUARD = ("/bin/sh", "-c", "read line; kill -KILL 0")
"""Waits until this process is gone, and then kills the group that it leads: all children, and itself."""
_LONGEST_LINE = 2**24  # bytes
_LAST_WORDS = 1.0  # seconds for what a child has written before its end


class TroubleError(Exception):
    """The system cannot go on; the message is one line for whoever runs it. `child` is who has ended, if it is that."""

    def __init__(self, text: str, child: str = "") -> None:
        super().__init__(text)
        self.child = child


class Child:
    """One process. What it writes before it is ready is kept, to say why if it never is."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, end: signal.Signals, tell: Tell) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self.stopping = False
        self._process = process
        self._end = end
        self._tell = tell
        self._since = monotonic()
        self._early: deque[str] | None = deque(maxlen=50)
        self._reading = [asyncio.create_task(self._read(one)) for one in (process.stdout, process.stderr) if one]

    def ready(self, *, told: bool = True) -> float:
        """Tell what it writes from now on, and if `told` what it has written; return the seconds since its start."""
        for line in (told and self._early) or ():
            self._tell(self.name, line)
        self._early = None
        return monotonic() - self._since

    async def ended(self) -> TroubleError:
        """Wait for its end and say how it came."""
        status = await self._process.wait()
        await asyncio.wait(self._reading, timeout=_LAST_WORDS)
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        why = f": {self._early.pop()}" if self._early else ""
        for line in self._early or ():
            self._tell(self.name, line)
        return TroubleError(f"{self.name} ended {how}{why}", self.name)

    async def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not within so many seconds."""
        self.stopping = True
        self._signal(self._end)
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        await asyncio.wait(self._reading, timeout=_LAST_WORDS)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            if line and self._early is not None:
                self._early.append(line)
            elif line:
                self._tell(self.name, line)


class Children:
    """All of them, in a process group of their own: Ctrl-C is for this process alone, which stops them in order.

    Use as `async with`. At its end those started last are stopped first, one kind after the other, each within
    `patience` seconds. If this process is killed, they are killed too.
    """

    def __init__(self, tell: Tell, patience: float) -> None:
        self._tell = tell
        self._patience = patience
        self._all: list[Child] = []
        self._watching: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Set the guard."""
        self._guard = subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)  # noqa: ASYNC220, S603
        self._trouble: asyncio.Future[TroubleError] = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them all."""
        try:
            for _, group in groupby(reversed(self._all), key=lambda child: child.kind):
                await asyncio.gather(*(child.stop(self._patience) for child in group))
        finally:
            self.kill()
            await asyncio.gather(*self._watching)
            self._guard.communicate()

    async def start(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str],
        *,
        told: bytes = b"",
        end: signal.Signals = signal.SIGTERM,
    ) -> Child:
        """Start one; its kind is its name up to a `-`, `told` its standard input, `end` the signal that stops it."""
        source, sink = os.pipe()
        os.write(sink, told)
        os.close(sink)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                limit=_LONGEST_LINE,
                process_group=self._guard.pid,
            )
        finally:
            os.close(source)
        child = Child(name, process, end, self._tell)
        self._all.append(child)
        self._watching.append(asyncio.create_task(self._watch(child)))
        return child

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this while all of them run; raises `TroubleError` as soon as one has ended."""
        task = asyncio.ensure_future(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self._trouble}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._trouble.done():
                raise self._trouble.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def kill(self) -> None:
        """End them all at once, and the guard with them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)

    async def _watch(self, child: Child) -> None:
        trouble = await child.ended()
        if not child.stopping and not self._trouble.done():
            self._trouble.set_result(trouble)
