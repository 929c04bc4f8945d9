"""A client that asks as fast as it is answered, and costs little: a few connections, no library, no pause."""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CONNECTIONS = 16
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_SOURCE = re.compile(rb'"source":"(\w+)"')


@dataclass(slots=True)
class Run:
    """What came of some seconds of asking."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    """Seconds that each answer took."""
    said: Counter[str] = field(default_factory=Counter)
    """Where the auth info of each came from: live, stale, unknown; else the status."""
    cpu: float = 0.0
    """Seconds of a core that the service took, if it was looked at."""

    def __add__(self, other: "Run") -> "Run":
        return Run(self.seconds + other.seconds, self.times + other.times, self.said + other.said, self.cpu + other.cpu)

    def only(self, source: str) -> "Run":
        """Raise if there was any other answer than these."""
        if set(self.said) != {source}:
            raise RuntimeError(f"all answers should have been {source!r}, and were {dict(self.said)}")
        return self

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    @property
    def cost(self) -> float:
        """Seconds of a core that an answer took the service."""
        return self.cpu / len(self.times)


class _Connection(asyncio.Protocol):
    """Asks for the next user when it has the whole answer for the last one, until it is told that time is over."""

    def __init__(self, requests: Iterator[bytes], run: Run) -> None:
        self._requests = requests
        self._run = run
        self._buffer = b""
        self._sent = 0.0
        self._transport: Any = None
        self._left = -1  # answers yet to come; negative: no end
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head + b"\r\n")
        if length is None:
            self.connection_lost(ValueError(f"an answer without a length: {head!r}"))
        elif len(rest) >= int(length[1]):
            self._answered(head, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the service has hung up"))

    def stop(self) -> None:
        """Ask no more; `ended` is when the last answer has come."""
        self._left = 1

    def _answered(self, head: bytes, body: bytes) -> None:
        self._run.times.append(time.perf_counter() - self._sent)
        source = _SOURCE.search(body)
        self._run.said[source[1].decode() if source else head[9:12].decode()] += 1
        self._buffer = b""
        if self._left < 0:
            self._send()
        else:
            self.ended.set_result(None)
            self._transport.close()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))


def requests(users: int) -> Iterator[bytes]:
    """Return requests for the profiles of so many users, one after another, and then again."""
    heads = (f"GET /profile/user-{user} HTTP/1.1\r\nhost: bench\r\n\r\n" for user in range(users))
    return itertools.cycle(list(map(str.encode, heads)))


async def ask(port: int, asked: Iterator[bytes], seconds: float, connections: int = CONNECTIONS) -> Run:
    """Send the next of these requests on each connection when the last one is answered, for so many seconds."""
    loop, run = asyncio.get_running_loop(), Run()
    started = time.perf_counter()
    made = [loop.create_connection(lambda: _Connection(asked, run), "127.0.0.1", port) for _ in range(connections)]
    callers = [caller for _, caller in await asyncio.gather(*made)]
    await asyncio.wait([caller.ended for caller in callers], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for caller in callers:
        caller.stop()
    async with asyncio.timeout(10):
        await asyncio.gather(*(caller.ended for caller in callers))
    run.seconds = time.perf_counter() - started
    return run
