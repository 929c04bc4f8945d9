"""`python -m apps.laptop` under test: a process group of its own, on ports of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from apps.laptop import demo
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
READY = "Ctrl-C ends it all"


class Laptop:
    """One run, with `folder` as its working directory, so that nobody's .env is found."""

    def __init__(self, folder: Path, command: str = "up", *, through: tuple[str, ...] = (), **settings: str) -> None:
        """Start it, `through` another program if that is given."""
        self.settings = demo.settings() | settings
        self.process = subprocess.Popen(
            [*through, sys.executable, "-m", "apps.laptop", command],
            cwd=folder,
            env=os.environ | self.settings | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out: list[str] = []
        self.complaints: list[str] = []
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.complaints))
        self._readers = [threading.Thread(target=lines.extend, args=(stream,)) for stream, lines in streams]
        for reader in self._readers:
            reader.start()

    def until(self, text: str) -> None:
        """Wait until it has shown a line with this text."""
        wait_until(
            lambda: self.process.poll() is not None or any(text in line for line in list(self.out)), text, within=30
        )
        assert any(text in line for line in self.out), self.complaints

    def url(self, setting: str) -> str:
        """Return the address of a port that a setting has."""
        return f"http://127.0.0.1:{self.settings[setting]}"

    def ask(self, path: str) -> httpx.Response:
        """Ask the gateway."""
        return httpx.get(self.url("GATEWAY_PORT") + path, trust_env=False)

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        return [pid for pid, parent, _ in _processes() if parent == self.process.pid]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ends(self) -> int:
        """Wait for its end and return its status."""
        status = self.process.wait(50)
        for reader in self._readers:
            reader.join(10)
        return status

    def close(self) -> None:
        """End it if it still runs, and whom it was started through; its guard ends the rest."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.ends()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs."""
    running = {pid for pid, _, status in _processes() if not status.startswith("Z")}
    return running.isdisjoint(pids)


def _processes() -> list[tuple[int, int, str]]:
    said = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout  # noqa: S607 - whichever there is
    return [(int(pid), int(parent), status) for pid, parent, status in map(str.split, said.splitlines())]
