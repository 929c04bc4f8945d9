"""The one real server of the bench, and what it says of the commands it runs."""

import contextlib
import re
import resource
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import redis

from commontrip.redis import RedisStore
from tests.support.resp import encode
from tests.support.servers import Server

_LINE = re.compile(rb'\+([\d.]+) \[(\d+) ([^\]]*)\] "([^"]*)"(?: "([^"]{0,80}))?')
SLOW = 5_000
"""Microseconds at the server that no command may exceed."""


def prepare(connections: int = 10_000) -> Server:
    """Make the server, which `with` starts; as many connections as the system gives it, at most so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = connections + 100 if hard == resource.RLIM_INFINITY else min(connections + 100, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return Server("--maxclients", str(connections), "--slowlog-max-len", "20000")


def script_names() -> dict[str, str]:
    """Return the name of each of commontrip's scripts by its hash."""
    scripts = RedisStore.from_url("redis://localhost")._scripts
    return {script.sha: name for name, script in scripts.items()}


@dataclass(frozen=True, slots=True)
class Seen:
    """A command that a client has sent; what scripts call inside the server is not among them."""

    at: float
    """Unix seconds by the server."""
    db: int
    name: str
    """Upper case; a script by its own name."""


@dataclass(slots=True)
class Watch:
    """`with Watch(server) as watch`: sees every command that reaches the server (MONITOR), in order."""

    server: Server
    seen: list[Seen] = field(default_factory=list)
    _marks: dict[str, int] = field(default_factory=dict)
    _scripts: dict[str, str] = field(default_factory=script_names)
    _socket: socket.socket | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self.server.port))
        self._socket.sendall(encode("MONITOR"))
        self._socket.recv(5)  # +OK
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()
        self.mark()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._socket and self._thread:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._socket.close()

    def mark(self) -> int:
        """Return how many commands have come, once all that were sent before this moment are seen."""
        word = f"mark-{secrets.token_hex(8)}"
        self.server.cli("ECHO", word)
        deadline = time.monotonic() + 30
        while word not in self._marks:
            if time.monotonic() > deadline:
                raise TimeoutError("the server does not show what it does")
            time.sleep(0.0005)
        return self._marks.pop(word)

    def since(self, mark: int) -> Counter[str]:
        """Return what has come since a mark, by name."""
        end = self.mark()
        return Counter(one.name for one in self.seen[mark:end])

    def _read(self, connection: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(ConnectionResetError):  # how it ends if something is still on its way
            while data := connection.recv(1 << 20):
                whole, newline, rest = (rest + data).rpartition(b"\r\n")
                for line in _LINE.finditer(whole + newline):
                    self._take(*(group or b"" for group in line.groups()))

    def _take(self, at: bytes, db: bytes, source: bytes, name: bytes, first: bytes) -> None:
        if source == b"lua":
            return
        word, argument = name.decode().upper(), first.decode()
        if word == "ECHO":
            self._marks[argument] = len(self.seen)
        elif word == "EVALSHA":
            self.seen.append(Seen(float(at), int(db), self._scripts.get(argument, word)))
        else:
            self.seen.append(Seen(float(at), int(db), word))


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds at the server."""

    median: float
    p99: float
    most: float
    count: int


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not below `share` (0 to 1) of all; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 1e6) * len(ordered) // 1_000_000) - 1)] if ordered else float("nan")


class Slowlog:
    """`with Slowlog(server, 10) as log`: how long each command took that took longer than so many microseconds."""

    def __init__(self, server: Server, threshold: int) -> None:
        """Prepare; thresholds under 10 would also log what scripts call, and slow them down."""
        self._server = server
        self._threshold = threshold
        self._client = redis.Redis.from_url(server.url)
        self._scripts = script_names()
        self.times: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        self._client.slowlog_reset()
        self._server.config("slowlog-log-slower-than", self._threshold)
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.config("slowlog-log-slower-than", -1)
        self.times = self.take()
        self._client.close()

    def take(self) -> dict[str, list[float]]:
        """Return the times by command, a script by its name, and forget them."""
        times: dict[str, list[float]] = {}
        for entry in self._client.slowlog_get(20_000):
            words = entry["command"].split(b" ", 2)
            name = words[0].decode().upper()
            if name == "EVALSHA":
                name = self._scripts.get(words[1].decode(), name)
            times.setdefault(name, []).append(float(entry["duration"]))
        self._client.slowlog_reset()
        return times


def timing(times: Sequence[float]) -> Timing:
    """Sum up."""
    most = max(times, default=float("nan"))
    return Timing(quantile(times, 0.5), quantile(times, 0.99), most, len(times))
