"""Real servers in throw-away directories: started, killed, frozen and thawed on command.

Everything here blocks; from a coroutine, call it in a thread (`asyncio.to_thread`) if the event
loop must go on meanwhile.
"""

import abc
import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import Self

from tests.support import binary as binaries
from tests.support.resp import Connection, Reply
from tests.support.waiting import wait_until

_BUS_OFFSET = 10_000  # a cluster node also listens there
_open: set["Server"] = set()
_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """Return a loopback port that is free, as is the cluster bus port that goes with it.

    Below the range from which systems take ports for outgoing connections, so that it is still free
    when a server comes back to it; none that was given lately, as who asked for it may be about to listen.
    """
    taken = {server.port for server in _open}.union(_given)
    while True:
        port = 15_000 + secrets.randbelow(7_000)
        if port not in taken and _is_free(port) and _is_free(port + _BUS_OFFSET):
            _given.append(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Started(contextlib.AbstractContextManager["Started"]):
    """Something that runs inside a `with`."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    @abc.abstractmethod
    def start(self) -> Self:
        """Start it and return when it can be used."""

    @abc.abstractmethod
    def close(self) -> None:
        """Kill every process of it and remove what it wrote."""


class Server(Started):
    """One Redis or Valkey server on loopback, which keeps nothing on disk."""

    def __init__(self, *options: str, binary: Path | None = None) -> None:
        """Prepare a server; `options` are passed on, such as `"--maxmemory", "2mb"`."""
        self.binary = binary or binaries.find()
        self.version = binaries.describe(self.binary)
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="commontrip-"))
        self.socket = self.directory / "redis.sock"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        _open.add(self)

    @property
    def url(self) -> str:
        """The address for a Redis client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The same server by its Unix socket."""
        return f"unix://{self.socket}?db=0"

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers; a `RuntimeError` if it runs, as that one would run for ever."""
        if self.running:
            raise RuntimeError(f"a server runs on port {self.port} already")
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        wait_until(self._answers, f"{self.version} to start on port {self.port}")
        return self

    def stop(self) -> None:
        """Ask the server to end, as an operator would, and return when it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it again, empty, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): the port accepts connections, and nothing answers."""
        self._signal(signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        _open.discard(self)

    def cli(self, *words: str | bytes | float, timeout: float = 5.0) -> Reply:
        """Run one command on a connection of its own, and return the answer within `timeout` s.

        Raises `ReplyError` if the server refuses, `OSError` if it does not answer.
        """
        with contextlib.closing(Connection(self.port, timeout=timeout)) as connection:
            return connection.ask(*words)

    def info(self, section: str = "default") -> dict[str, str]:
        """Return the fields of INFO."""
        lines = str(self.cli("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def config(self, name: str, value: str | float) -> None:
        """Change a setting of the running server."""
        self.cli("CONFIG", "SET", name, value)

    def flush(self) -> None:
        """Remove all keys; scripts stay."""
        self.cli("FLUSHALL")

    def log(self) -> str:
        """Return what the server wrote."""
        return (self.directory / "server.log").read_text(errors="replace")

    def _command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [str(self.binary), *words, *self.options]

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.version} ended at start:\n{self.log()}")
        try:
            return self.cli("PING") == "PONG"
        except OSError:
            return False

    @property
    def _pid(self) -> int:
        if self._process is None or not self.running:
            raise RuntimeError(f"no server runs on port {self.port}")
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self.thaw()
            self._signal(number)
            self._process.wait(20)


@atexit.register
def _close_all() -> None:
    for server in list(_open):
        server.close()
