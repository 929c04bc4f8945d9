"""The witness: a dependency that does as it is ordered, and counts what really arrived."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class Order:
    """How to treat a request: `ok` or `fail`, after so many seconds (inf = when released)."""

    answer: str = "ok"
    delay: float = 0.0
    retry_after: float = 0.0


@dataclass(slots=True, eq=False)
class Arrival:
    """One request: when it came (Unix s), from whom, and what admitted it there."""

    at: float
    replica: str
    breaker: str
    state: str
    epoch: str
    ended: float | None = None
    """When it was answered or its caller went away."""
    answer: str = ""
    """What it was answered; '' if its caller went away, or still waits."""


Orders = Callable[[Arrival], Order]


class Dependency:
    """`async with Dependency() as dependency`; a request is a line, and so is the answer.

    `orders` decides about each arrival; `ok`, `fail` and `hang` set it for all that come.
    """

    def __init__(self) -> None:
        """Answer everything with ok, at first."""
        self.arrivals: list[Arrival] = []
        """All that ever came, in order."""
        self.peaks: Counter[str] = Counter()
        """The most that were in flight at once, by the state that admitted them."""
        self.orders: Orders = lambda _: Order()
        self._running: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._listener
        self._listener.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await self._listener.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._listener
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def ok(self, delay: float = 0.0) -> None:
        """Answer well from now on."""
        self.orders = lambda _: Order("ok", delay)

    def fail(self, delay: float = 0.0, *, retry_after: float = 0.0) -> None:
        """Fail from now on."""
        self.orders = lambda _: Order("fail", delay, retry_after)

    def hang(self) -> None:
        """Answer nothing until `release`."""
        self.orders = lambda _: Order(delay=math.inf)

    def release(self, answer: str = "ok", *, breaker: str = "") -> None:
        """Answer all that hang."""
        for connection in list(self._connections):
            if (arrival := connection.hangs) and breaker in {"", arrival.breaker}:
                connection.answer(Order(answer))

    def came(self, *, state: str = "", breaker: str = "", replica: str = "", since: float = 0.0) -> list[Arrival]:
        """Return those that came, in order, as far as they match."""
        return [
            arrival
            for arrival in self.arrivals
            if arrival.at >= since
            and state in {"", arrival.state}
            and breaker in {"", arrival.breaker}
            and replica in {"", arrival.replica}
        ]

    def in_flight(self, *, state: str = "", breaker: str = "") -> list[Arrival]:
        """Return those that have not been answered and whose callers still wait."""
        return [one for one in self.came(state=state, breaker=breaker) if one.ended is None]

    async def more(self, count: int = 1, *, state: str = "", breaker: str = "", within: float = 10.0) -> list[Arrival]:
        """Wait for further arrivals, and return them."""
        before = len(self.came(state=state, breaker=breaker))

        def enough() -> bool:
            return len(self.came(state=state, breaker=breaker)) >= before + count

        await eventually(enough, f"{count} more arrivals {state} {breaker}", within)
        return self.came(state=state, breaker=breaker)[before:]

    def opened(self, connection: "_Connection") -> None:
        """Keep a connection."""
        self._connections.add(connection)

    def closed(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def began(self, replica: str, breaker: str, state: str, epoch: str) -> Arrival:
        """Count a request in."""
        arrival = Arrival(time.time(), replica, breaker, state, epoch)
        self.arrivals.append(arrival)
        self._running[state] += 1
        self.peaks[state] = max(self.peaks[state], self._running[state])
        return arrival

    def ended(self, arrival: Arrival, answer: str) -> None:
        """Count it out."""
        arrival.ended, arrival.answer = time.time(), answer
        self._running[arrival.state] -= 1


class _Connection(asyncio.Protocol):
    """Carries one request after another."""

    transport: asyncio.Transport

    def __init__(self, dependency: Dependency) -> None:
        self._dependency = dependency
        self._arrival: Arrival | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""

    @property
    def hangs(self) -> Arrival | None:
        """The request that waits for its release, if there is one."""
        return None if self._timer else self._arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._dependency.opened(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._arrival = self._dependency.began(*line.decode().split(" "))
            order = self._dependency.orders(self._arrival)
            if order.delay == 0:
                self.answer(order)
            elif order.delay < math.inf:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(order.delay, self.answer, order)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._dependency.closed(self)
        self._end("")

    def answer(self, order: Order) -> None:
        """Answer the request that waits."""
        self._end(order.answer)
        self.transport.write(f"{order.answer} {order.retry_after}\n".encode())

    def _end(self, answer: str) -> None:
        if self._timer:
            self._timer.cancel()
        if self._arrival:
            self._dependency.ended(self._arrival, answer)
        self._arrival = self._timer = None
