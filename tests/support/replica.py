"""One replica as a real process: `python -m tests.support.replica`, told what to do by JSON lines.

A line in is `{"id": 1, "do": "join", ...}`, one out `{"id": 1, "answer": ...}` or `{"id": 1, "error":
...}`. Transitions and reports come as they happen, as `{"event": "transition", ...}`. It ends with
its standard input. `tests.support.fleet` is the other end.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import commontrip.redis
from commontrip import (
    Applied,
    Breaker,
    Breakers,
    CircuitOpenError,
    Counts,
    Listener,
    Policy,
    Report,
    State,
    _line,
)

# Turns of the loop from a timer to its caller, with some to spare; and those that a call takes, each of the two times
# that it may ask, to see what has arrived while the loop itself stood still. On a quiet machine a millisecond in all.
_HOPS = 5 + 2 * _line._TURNS


class Failed(Exception):  # noqa: N818 - what the dependency did
    """The dependency answered with a failure."""

    def __init__(self, retry_after: float = 0.0) -> None:
        """Keep the seconds for which it wants to be left alone."""
        super().__init__(retry_after)
        self.retry_after = retry_after


def retry_after(what: object) -> float | None:
    """For a policy's classification: the Retry-After in what a call raised or returned."""
    return getattr(what, "retry_after", None)


@dataclass(frozen=True)
class StopsToTrip:
    """Trips at `n` failures, and stops the whole process (SIGSTOP) between facts and decision.

    The replica's own view is asked first and makes it refuse; the store's facts come second.
    """

    n: int

    def trips(self, counts: Counts) -> bool:
        """Stop at the second yes."""
        enough = counts.failures >= self.n
        _said_yes[self] += enough
        if enough and _said_yes[self] == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return enough


_said_yes: Counter[StopsToTrip] = Counter()


class Telling(Listener):
    """Writes events to standard output."""

    def on_transition(self, applied: Applied) -> None:
        """Write a transition."""
        made, how = applied.transition, {"made": applied.made, "local": applied.local}
        _say(
            event="transition",
            breaker=applied.breaker,
            epoch=str(made.epoch),
            state=made.state,
            reason=made.reason,
            lag=applied.lag,
            **how,
        )

    def on_report(self, report: Report) -> None:
        """Write a report."""
        _say(event="report", kind=report.kind, breaker=report.breaker, text=report.text)


class Client:
    """Asks the dependency, each time on a free connection; a call that is cancelled breaks its own."""

    def __init__(self, port: int, replica: str) -> None:
        """Prepare to ask the dependency on a loopback port, in the name of a replica."""
        self._port = port
        self._replica = replica
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, breaker: str, state: str, epoch: str) -> None:
        """Ask once; raise `Failed` if that is the answer."""
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"{self._replica} {breaker} {state} {epoch or '-'}\n".encode())
            answer, retry = (await reader.readline()).decode().split()
        except BaseException:
            writer.transport.abort()
            raise
        self._free.append((reader, writer))
        if answer != "ok":
            raise Failed(float(retry))

    def close(self) -> None:
        """Break all connections."""
        for _, writer in self._free:
            writer.transport.abort()


class Watch:
    """`with Watch(seconds) as watch`: whether the block took longer than a sleep of that length.

    Both are served by the same loop, so its own lag delays both, and does not count.
    """

    def __init__(self, seconds: float) -> None:
        """Set the limit."""
        self.late = False
        self.took = 0.0
        self._seconds = seconds

    def __enter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._expire())
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the measured time before the block ends; only the first end counts."""
        self.took = self.took or time.perf_counter() - self._started
        self._task.cancel()

    async def _expire(self) -> None:
        await asyncio.sleep(self._seconds)
        for _ in range(_HOPS):
            await asyncio.sleep(0)
        self.late = True


class Replica:
    """What the process is told to do; every public method is a command."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.strange: list[str] = []
        self._stack = AsyncExitStack()
        self._breakers: dict[str, Breaker] = {}
        self._callers: set[asyncio.Task[None]] = set()
        self._inside: set[asyncio.Task[Any]] = set()  # attempts that are at the dependency
        self._outcomes: Counter[str] = Counter()
        self._slowest: dict[str, float] = {}
        self._late: Counter[str] = Counter()
        self._budget = 0.0

    async def join(
        self,
        url: str,
        prefix: str,
        name: str,
        port: int,
        policies: dict[str, str],
        store_budget: float,
        skew: float = 0.0,
        layout: str = "",
        **settings: Any,
    ) -> None:
        """Enter the fleet, with a wall clock that is `skew` seconds off, in a key layout."""
        if skew:
            right = time.time
            time.time = lambda: right() + skew
        if layout:
            commontrip.redis.LAYOUT = layout
        self._budget = store_budget
        self._client = Client(port, name)
        self._stack.callback(self._client.close)
        # Longer than any test's: on a slow machine more is made before the last look at it.
        store = commontrip.redis.RedisStore.from_url(url, prefix=prefix, history=10_000)
        fleet = Breakers(store, listeners=[Telling()], replica=name, store_budget=store_budget, **settings)
        await self._stack.enter_async_context(fleet)
        for breaker, policy in policies.items():
            self._breakers[breaker] = fleet.get(breaker, _unpack(policy))

    async def leave(self) -> None:
        """Leave the fleet as at a graceful end."""
        await self.stop()
        await self._stack.aclose()
        self._breakers.clear()

    async def traffic(self, breaker: str, callers: int, pause: float = 0.02, *, timed: bool = False) -> None:
        """Start callers who try again and again, each after a pause; `timed` measures the store's part."""
        for _ in range(callers):
            work = self._call_on(self._breakers[breaker], pause, timed=timed)
            self._callers.add(asyncio.create_task(work))

    async def stop(self) -> None:
        """Stop all callers, and cancel what they are about."""
        callers, self._callers = self._callers, set()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    async def call(self, breaker: str, times: int = 1) -> dict[str, Any]:
        """Make calls at once, each from a task of its own; return how they ended."""
        calls = [self._attempt(self._breakers[breaker]) for _ in range(times)]
        outcomes = await asyncio.gather(*calls)
        refusals = [left for outcome, left in outcomes if outcome == "refused"]
        return {"outcomes": Counter(outcome for outcome, _ in outcomes), "retry_after": refusals}

    async def counted(self, breaker: str) -> int:
        """Return the failures that the store has counted."""
        return (await self._breakers[breaker].read()).counts.failures

    async def cancel(self) -> int:
        """Cancel every call that is at the dependency, as if its caller had gone away."""
        inside = list(self._inside)
        for attempt in inside:
            attempt.cancel()
        return len(inside)

    async def tell(self) -> dict[str, Any]:
        """Say what has been seen since the last time, and what holds now."""
        said = {
            "outcomes": self._outcomes,
            "slowest": self._slowest,
            "late": self._late,
            "strange": self.strange,
            "states": {name: _state(breaker) for name, breaker in self._breakers.items()},
        }
        self._outcomes, self._slowest, self._late, self.strange = Counter(), {}, Counter(), []
        return said

    async def _call_on(self, breaker: Breaker, pause: float, *, timed: bool) -> None:
        while True:
            work = self._timed(breaker) if timed else self._attempt(breaker)
            attempt = asyncio.ensure_future(work)
            try:
                await asyncio.wait({attempt})
            finally:
                attempt.cancel()
            await asyncio.sleep(pause)

    async def _attempt(self, breaker: Breaker) -> tuple[str, float]:
        """Call by `admit`, which tells exactly which epoch has admitted the call."""
        left = 0.0
        try:
            call = await breaker.admit()
            try:
                await self._ask(breaker, getattr(call, "epoch", ""))
            except BaseException as error:
                call.raised(error)
                raise
            call.returned(None)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - all are told to the test
            outcome = self._judge(error)
            left = error.retry_after if isinstance(error, CircuitOpenError) else 0.0
        else:
            outcome = "ok"
        self._outcomes[outcome] += 1
        return outcome, left

    async def _timed(self, breaker: Breaker) -> None:
        """Call by `call`, and measure what the breaker adds before and after the guarded function."""
        outside, inside, after = breaker.state, breaker.state, None

        async def guarded() -> None:
            nonlocal after, inside
            before.stop()
            inside = breaker.state
            try:
                await self._ask(breaker)
            finally:
                after = Watch(self._budget).__enter__()

        outcome = "ok"
        with Watch(self._budget) as before:
            try:
                await breaker.call(guarded)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - all are told to the test
                outcome = self._judge(error)
        self._outcomes[outcome] += 1
        self._measure(f"{outside} before", before)
        if after:
            after.stop()
            self._measure(f"{inside} after", after)

    def _measure(self, what: str, watch: Watch) -> None:
        self._slowest[what] = max(self._slowest.get(what, 0.0), watch.took)
        self._late[what] += watch.late

    async def _ask(self, breaker: Breaker, probe: str = "") -> None:
        attempt = asyncio.current_task()
        assert attempt
        state, epoch = breaker.state, breaker.snapshot.epoch
        self._inside.add(attempt)
        try:
            await self._client.ask(breaker.name, *((State.HALF_OPEN, probe) if probe else (state, epoch)))
        finally:
            self._inside.discard(attempt)

    def _judge(self, error: BaseException) -> str:
        if isinstance(error, Failed):
            return "failed"
        if isinstance(error, CircuitOpenError):
            return "refused"
        if isinstance(error, asyncio.CancelledError):
            return "cancelled"
        self.strange.append(repr(error))
        return "strange"


def _state(breaker: Breaker) -> dict[str, Any]:
    seen = breaker.snapshot
    return {
        "state": seen.state,
        "epoch": seen.epoch,
        "remaining": seen.remaining,
        "local": seen.local,
    }


def _unpack(policy: str) -> Policy:
    unpacked: Policy = pickle.loads(base64.b64decode(policy))  # noqa: S301 - from the test itself
    return unpacked


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _obey(replica: Replica, line: bytes) -> None:
    order = json.loads(line)
    number, what = order.pop("id"), order.pop("do")
    try:
        _say(id=number, answer=await getattr(replica, what)(**order))
    except Exception as error:  # noqa: BLE001 - told to the test, which raises it
        _say(id=number, error=repr(error))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    replica = Replica()
    loop.set_exception_handler(lambda _, context: replica.strange.append(str(context)))
    tasks = set()
    _say(event="ready")
    while line := await orders.readline():
        task = asyncio.create_task(_obey(replica, line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    with contextlib.suppress(Exception):
        await replica.leave()


if __name__ == "__main__":
    logging.disable()
    asyncio.run(_serve())
