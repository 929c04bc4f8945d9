"""The services as they run in production: processes with settings from the environment, and what each of them costs."""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx

from tests.support.servers import free_port

USERS = 100
MODULE = "BENCH_MODULE"
"""In an environment: what is run instead of the service itself."""
_ROOT = Path(__file__).parents[2]
_START = 20.0  # seconds in which a service must be ready, on a busy machine too
_PROC = Path("/proc")
# The log would cost both sides of a pair the same, and so hide a part of any difference.
_COMMON = {"ACCESS_LOG": "false", "LOG_LEVEL": "WARNING", "CONNECTION_AGE_SECONDS": "86400", "DRAIN_SECONDS": "0"}

Environment = Mapping[str, str]


class Service:
    """A process that answers requests."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        """Take a process that was just started."""
        self._process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def cpu(self) -> float:
        """Seconds of a core that it has taken so far, all threads; nan where the system does not say."""
        try:
            threads = list((_PROC / str(self._process.pid) / "task").iterdir())
            return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
        except OSError:
            return float("nan")

    async def ready(self) -> None:
        """Wait until it wants requests."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            async with asyncio.timeout(_START):
                while not await _is_ready(client):
                    if self._process.returncode is not None:
                        raise RuntimeError("a service has ended at start; see what it wrote above")
                    await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@contextlib.asynccontextmanager
async def running(name: str, environment: Environment) -> AsyncIterator[Service]:
    """Start a service on a free port, and kill it at the end; nothing but `environment` and our defaults is set."""
    port, metrics = free_port(), free_port()
    ports = {f"{name.upper()}_PORT": str(port), f"{name.upper()}_METRICS_PORT": str(metrics)}
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    command = (sys.executable, "-m", environment.get(MODULE, f"apps.{name}"))
    environ = {**kept, **_COMMON, **ports, **environment}
    service = Service(
        await asyncio.create_subprocess_exec(*command, env=environ, cwd=_ROOT, stdout=DEVNULL),
        port,
    )
    try:
        await service.ready()
        yield service
    finally:
        await service.kill()


def users(folder: Path, count: int = USERS) -> tuple[Environment, Environment]:
    """Write so many users and profiles, and return what tells auth and profile where they are."""
    names = [f"user-{number}" for number in range(count)]
    known, people = folder / f"users-{count}.json", folder / f"people-{count}.json"
    known.write_text(json.dumps({name: {"roles": ["reader", "editor"]} for name in names}))
    people.write_text(json.dumps({name: {"name": name.title(), "known_for": "being one of many"} for name in names}))
    return {"AUTH_USERS_PATH": str(known)}, {"PROFILE_PEOPLE_PATH": str(people)}
