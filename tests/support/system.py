"""The services as processes, `python -m apps.…` as in production, with a real Redis: killed, frozen and started again.

Everything here blocks; from a coroutine, call it in a thread (`asyncio.to_thread`) if the event loop must go on.
"""

import atexit
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.servers import Server, Started
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
_SETTING = ("ACCESS_", "AUTH_", "CONNECTION_", "DRAIN_", "GATEWAY_", "KEEP_", "LISTEN_", "LOG_", "OTEL_")
_SETTINGS = (*_SETTING, "PROFILE_", "REDIS_", "SHUTDOWN_")
_TICKS = os.sysconf("SC_CLK_TCK")
_running: set["Service"] = set()
_given: set[int] = set()


class Service(Started):
    """One process of a service, on ports of its own, which it keeps when it is started again."""

    def __init__(self, kind: str, directory: Path, settings: Mapping[str, object], name: str = "") -> None:
        """Prepare `apps.<kind>`; `settings` are its environment, and what it logs goes to a file in `directory`."""
        self.kind = kind
        self.name = name or kind
        self.port, self.metrics_port = _own_port(), _own_port()
        ports = {f"{kind}_PORT": self.port, f"{kind}_METRICS_PORT": self.metrics_port}
        self.settings = {key.upper(): str(value) for key, value in {**ports, **settings}.items()}
        self._path = directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id; raises `RuntimeError` if it does not run."""
        if self._process is None or self.exit_status is not None:
            raise RuntimeError(f"{self.name} does not run; it said:\n{self.text()[-2000:]}")
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll() if self._process else None

    def launch(self) -> Self:
        """Start the process and return at once."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**outside, "PYTHONPATH": path, **self.settings}
        with self._path.open("ab") as log:
            words = [sys.executable, "-m", f"apps.{self.kind}"]
            self._process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log)
        _running.add(self)
        return self

    def start(self) -> Self:
        """Start the process and return when it is ready."""
        return self.launch().ready()

    def ready(self) -> Self:
        """Return when `/readyz` says so."""
        wait_until(lambda: bool(self.pid) and self.status("/readyz") == http.client.OK, f"{self.name}: ready", 30)
        return self

    def status(self, path: str) -> int:
        """Return the status of a GET, 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask the process to end (SIGTERM), and return its exit status when it has."""
        return self._end(signal.SIGTERM)

    def restart(self) -> int:
        """Stop it, start it again on the same ports, and return the exit status of the first."""
        status = self.stop()
        self.start()
        return status

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self._process:
            self._process.kill()  # it may be about to end by itself
            self._process.wait(30)
        _running.discard(self)
        _given.difference_update((self.port, self.metrics_port))

    def send(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP it is frozen, until SIGCONT."""
        os.kill(self.pid, number)

    def text(self) -> str:
        """Return all that it wrote."""
        return self._path.read_text() if self._path.exists() else ""

    def logged(self, level: str = "") -> list[dict[str, Any]]:
        """Return what it logged, of one level if given; what is no JSON object raises `ValueError`."""
        lines = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in lines if not level or line["level"] == level]

    def faults(self) -> list[dict[str, Any]]:
        """Return what it logged as an error or with a traceback."""
        return [line for line in self.logged() if line["level"] in ("error", "critical") or "exception" in line]

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def processor_seconds(self) -> float:
        """Return the processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """Return the bytes of memory it occupies."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _end(self, number: signal.Signals) -> int:
        process, pid = self._process, self.pid
        assert process is not None
        os.kill(pid, number)
        return process.wait(30)


class System(Started):
    """Redis, auth, profile replicas and the gateway, as they stand in an installation."""

    def __init__(self, directory: Path, replicas: int = 3, **settings: object) -> None:
        """Prepare it; `settings` are further ones, by the names of their environment variables in lower case."""
        self.redis = Server()
        given: dict[str, object] = {"redis_url": self.redis.url, "drain_seconds": 0.3, "auth_faults": True, **settings}
        self.auth = Service("auth", directory, given)
        given = {"profile_auth_url": self.auth.url, **given}
        names = [f"profile-{number}" for number in range(1, replicas + 1)]
        self.profiles = [Service("profile", directory, {**given, "profile_replica": name}, name) for name in names]
        addresses = ",".join(profile.url for profile in self.profiles)
        given = {"gateway_routes": f"/profile={addresses};/breakers={addresses}", **given}
        self.gateway = Service("gateway", directory, given)

    @property
    def services(self) -> list[Service]:
        """Every process but Redis."""
        return [self.auth, *self.profiles, self.gateway]

    def start(self) -> Self:
        """Start all at once, and return when all are ready."""
        self.redis.start()
        for service in self.services:
            service.launch()
        for service in self.services:
            service.ready()
        return self

    def close(self) -> None:
        """Kill every process."""
        for service in self.services:
            service.close()
        self.redis.close()


def _own_port() -> int:
    """Return a port that no other service was given, and hardly any other run of the tests: one at rest takes none."""
    block = 22_000 + os.getpid() % 100 * 100
    for port in range(block, block + 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError(f"no port is free from {block} to {block + 99}")


@atexit.register
def _close_all() -> None:
    for service in list(_running):
        service.close()
