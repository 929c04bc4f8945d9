"""A TCP proxy in front of a real server: it counts what crosses, and breaks it on command."""

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from tests.support.resp import IncompleteError, Push, Value, parse

_HISTORY = 100_000
_GREETINGS = {"HELLO", "AUTH", "CLIENT", "SELECT"}
_SUBSCRIBING = {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"}
_SUBSCRIBING |= {name.replace("SUB", "UNSUB") for name in _SUBSCRIBING}
_MESSAGES = {name.lower().encode() for name in _SUBSCRIBING | {"MESSAGE", "PMESSAGE", "SMESSAGE"}}


class Target(Protocol):
    """Anything on a loopback port."""

    @property
    def port(self) -> int:
        """Where it listens now."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command that crossed: when (monotonic s), what, and all its words."""

    at: float
    name: str
    words: tuple[bytes, ...]


class Proxy:
    """`async with Proxy(server) as proxy`: give `proxy.url` to the client and spoil its day.

    Understands RESP2 and RESP3, pipelines and subscriptions (answers to SUBSCRIBE itself cannot be
    lost). Random losses spare the commands that open a connection. Lives in one event loop.
    """

    def __init__(self, target: Target, *, seed: int = 0) -> None:
        """Stand in front of `target`; `seed` makes random losses repeat."""
        self.counts: Counter[str] = Counter()
        """Commands that reached the server, by upper-case name."""
        self.history: deque[Command] = deque(maxlen=_HISTORY)
        """The same one by one, the latest 100,000."""
        self.request_delay = 0.0
        """Seconds that a command takes on its way to the server."""
        self.reply_delay = 0.0
        """Seconds that a reply takes on its way back."""
        self.request_loss = 0.0
        """The share of commands (0 to 1) that never arrive; the connection breaks."""
        self.reply_loss = 0.0
        """The share of commands (0 to 1) that are done but not answered; the connection breaks."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._target = target
        self._random = random.Random(seed)
        self._losses: list[_Loss] = []
        self._links: set[_Link] = set()
        self._socket = _bind(0)
        self._listener: asyncio.Server | None = None
        self.port: int = self._socket.getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The address for a Redis client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def delay(self) -> float:
        """Seconds added to a round trip, half on the way there and half on the way back."""
        return self.request_delay + self.reply_delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self.request_delay = self.reply_delay = seconds / 2

    def forget(self) -> None:
        """Count from zero again."""
        self.counts.clear()
        self.history.clear()

    def lose_requests(self, times: int = 1, *, command: str | None = None, hang: bool = False) -> None:
        """Swallow the next commands (of this name) before the server sees them.

        The connection then breaks; with `hang` it stays open and passes nothing more.
        """
        self._losses.append(_Loss("request", times, command, hang))

    def lose_replies(self, times: int = 1, *, command: str | None = None, hang: bool = False) -> None:
        """Let the server do the next commands (of this name), and swallow the answers.

        The connection then breaks; with `hang` it stays open and passes nothing more.
        """
        self._losses.append(_Loss("reply", times, command, hang))

    def freeze(self) -> None:
        """Pass nothing, in either direction; connections are still accepted."""
        self.flowing.clear()

    def thaw(self) -> None:
        """Pass everything again, first what was held up."""
        self.flowing.set()

    def cut(self) -> None:
        """Break every connection, with whatever is under way."""
        for link in self._links:
            link.cut()

    def refuse(self) -> None:
        """Refuse new connections, as if the server had gone; open ones stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._socket = _bind(self.port)

    async def accept(self) -> None:
        """Accept connections again."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(lambda: _End(self), sock=self._socket)

    async def close(self) -> None:
        """Break everything and free the port."""
        self.refuse()
        self._socket.close()
        self.cut()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    def opened(self, client: "_End") -> None:
        """Link a new client to the server."""
        link = _Link(self, client)
        self._links.add(link)
        link.task.add_done_callback(lambda _: self._links.discard(link))

    def dial(self) -> tuple[str, int]:
        """Return where the server is now."""
        return "127.0.0.1", self._target.port

    def count(self, name: str, words: tuple[bytes, ...]) -> None:
        """Note a command that reaches the server."""
        self.counts[name] += 1
        self.history.append(Command(time.monotonic(), name, words))

    def loss(self, what: Literal["request", "reply"], command: str) -> "_Loss | None":
        """Say whether, and how, this command or its reply is lost."""
        for loss in self._losses:
            if loss.times and loss.what == what and loss.command in {None, command}:
                loss.times -= 1
                return loss
        if command in _GREETINGS:
            return None
        share = self.request_loss if what == "request" else self.reply_loss
        return _Loss(what, 0, None, hang=False) if self._random.random() < share else None


@dataclass(slots=True)
class _Loss:
    what: Literal["request", "reply"]
    times: int
    command: str | None
    hang: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    at: float
    raw: bytes
    value: Value


class _End(asyncio.Protocol):
    """One end of a link: queues what arrives, frame by frame with its time, and None at the end."""

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy | None = None) -> None:
        self.arrived: asyncio.Queue[_Frame | None] = asyncio.Queue()
        self._proxy = proxy
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._proxy:
            self._proxy.opened(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start, now = 0, time.monotonic()
        with contextlib.suppress(IncompleteError):
            while start < len(self._buffer):
                value, end = parse(self._buffer, start)
                self.arrived.put_nowait(_Frame(now, bytes(self._buffer[start:end]), value))
                start = end
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.arrived.put_nowait(None)


class _Link:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, proxy: Proxy, client: _End) -> None:
        self._proxy = proxy
        self._unanswered: deque[_Loss | None] = deque()
        self._subscribed = False
        self._broken = False
        self._hanging = False
        self.task = asyncio.get_running_loop().create_task(self._run(client))

    def cut(self) -> None:
        """Break both connections."""
        self._broken = True
        self.task.cancel()

    async def _run(self, client: _End) -> None:
        ends = [client]
        directions: list[asyncio.Task[None]] = []
        try:
            loop = asyncio.get_running_loop()
            _, server = await loop.create_connection(_End, *self._proxy.dial())
            ends.append(server)
            directions.append(loop.create_task(self._pass_requests(client, server)))
            directions.append(loop.create_task(self._pass_replies(server, client)))
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            self._broken = True
        finally:
            for direction in directions:
                direction.cancel()
            for end in ends:
                end.transport.abort() if self._broken else end.transport.close()

    async def _pass_requests(self, client: _End, server: _End) -> None:
        while frame := await client.arrived.get():
            await self._hold(frame.at + self._proxy.request_delay)
            words = tuple(word for word in _items(frame.value) if isinstance(word, bytes))
            name = words[0].decode().upper()
            if loss := self._proxy.loss("request", name):
                self._lose(loss)
            if self._broken:
                return
            if self._hanging:
                continue
            self._proxy.count(name, words)
            if name in _SUBSCRIBING:
                self._subscribed = True
            else:
                self._unanswered.append(self._proxy.loss("reply", name))
            server.transport.write(frame.raw)

    async def _pass_replies(self, server: _End, client: _End) -> None:
        while frame := await server.arrived.get():
            await self._hold(frame.at + self._proxy.reply_delay)
            if not self._is_message(frame.value) and (loss := self._unanswered.popleft()):
                self._lose(loss)
            if self._broken:
                return
            if not self._hanging:
                client.transport.write(frame.raw)

    def _lose(self, loss: _Loss) -> None:
        self._hanging |= loss.hang
        self._broken |= not loss.hang

    def _is_message(self, value: Value) -> bool:
        if not self._subscribed:
            return False
        return isinstance(value, Push) or _items(value)[:1] in [[kind] for kind in _MESSAGES]

    async def _hold(self, until: float) -> None:
        if (left := until - time.monotonic()) > 0:
            await asyncio.sleep(left)
        await self._proxy.flowing.wait()


def _items(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []


def _bind(port: int) -> socket.socket:
    """Take a port without listening: connections are refused, and nobody else can have it."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
