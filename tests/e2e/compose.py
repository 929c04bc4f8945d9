"""The compose file on a real Docker engine: `python -m pytest tests/e2e/compose.py`.

Needs `docker compose` or `docker-compose`, and the images python:3.13-slim and redis:8.0 or a way to them. A machine
that has to add to the file, to its networks say, names both in COMPOSE_FILE, as compose has it.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.apps.running import comes, refusing
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
MADE_OF = ("apps", "src", "requirements/apps.txt", ".dockerignore", "docker-compose.yaml", ".env.template")
REPLICAS = 3
MOST_BYTES = 250_000_000

pytestmark = pytest.mark.timeout(600)


def run(*words: str, cwd: Path = ROOT) -> str:
    """Run a program and return what it says; what it complains of is in the failure."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def compose_command() -> tuple[str, ...]:
    """Return version 2's command, else version 1's."""
    words = ("docker", "compose")
    found = subprocess.run((*words, "version"), capture_output=True, timeout=30, check=False)
    return words if found.returncode == 0 else ("docker-compose",)


class Project:
    """The system as whoever follows the first line of the compose file has it, on ports that were free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = (*compose_command(), "-p", f"commontrip-e2e-{folder.parent.name[-8:].strip('-').lower()}")
        self.gateway, self.auth = refusing(), refusing()

    def copy(self) -> None:
        """Copy the tree, and the template to .env with other ports and a short cooldown."""
        for one in MADE_OF:
            source, target = ROOT / one, self.folder / one
            target.parent.mkdir(parents=True, exist_ok=True)
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=skipped) if source.is_dir() else shutil.copy(source, target)
        changed = {"GATEWAY_PORT": self.gateway, "AUTH_PORT": self.auth}
        changed = {name: url.rpartition(":")[2] for name, url in changed.items()}
        changed["PROFILE_BREAKER_COOLDOWN_SECONDS"] = "1"
        lines = (self.folder / ".env.template").read_text().splitlines()
        lines = [f"{name}={changed.get(name, value)}" for name, _, value in (line.partition("=") for line in lines)]
        (self.folder / ".env").write_text("\n".join(lines))

    def __call__(self, *words: str) -> str:
        """Run a command of compose."""
        return run(*self.command, *words, cwd=self.folder)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """Return what the engine says of the containers."""
        names = self("ps", "-q", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *names))
        return found

    def healthy(self) -> bool:
        """Whether every health check says so."""
        return all(one["State"]["Health"]["Status"] == "healthy" for one in self.containers())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Bring the system up, and leave nothing of it."""
    one = Project(tmp_path_factory.mktemp("compose") / "commontrip")
    one.copy()
    try:
        one("up", "-d", "--build")
        wait_until(one.healthy, "every container to be healthy", within=60)
        yield one
    finally:
        one("down", "--volumes", "--rmi", "local", "--timeout", "1")


def address(container: dict[str, Any], port: int = 8081) -> str:
    """Return where this machine reaches a container that publishes nothing."""
    [network] = container["NetworkSettings"]["Networks"].values()
    return f"http://{network['IPAddress']}:{port}"


async def states(project: Project, client: httpx.AsyncClient) -> set[tuple[str, str]]:
    """Return the states and epochs that the replicas of profile see, asked one by one."""
    found = set()
    for one in project.containers("profile"):
        [breaker] = (await client.get(f"{address(one)}/breakers")).json()
        found.add((breaker["state"], breaker["epoch"]))
    return found


class Traffic:
    """Users who ask for profiles without a pause, each on a connection of its own."""

    def __init__(self, project: Project, users: int = 6) -> None:
        self._url = f"{project.gateway}/profile/ada"
        self._users = users
        self.answers: list[str] = []
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._users)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while True:
                try:
                    answer = await client.get(self._url)
                    said = answer.json()["auth"]["source"] if answer.status_code == httpx.codes.OK else answer.text
                    (self.answers if answer.status_code == httpx.codes.OK else self.failures).append(said)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                await asyncio.sleep(0.02)


def test_confined(project: Project) -> None:
    """Six containers run without a right: not root, a root that cannot be written to, ports on this machine only."""
    containers = project.containers()
    assert len(containers) == REPLICAS + 3
    for one in containers:
        written = run("docker", "exec", one["Id"], "sh", "-c", "touch /here 2>&1 || true")
        assert "Read-only file system" in written
        status = run("docker", "exec", one["Id"], "sh", "-c", "cat /proc/[0-9]*/status").splitlines()
        for what, allowed in (("CapEff", "0000000000000000"), ("NoNewPrivs", "1")):
            assert {line.split()[1] for line in status if line.startswith(f"{what}:")} == {allowed}
        assert "0" not in {user for line in status if line.startswith(("Uid:", "Gid:")) for user in line.split()}
        published = [place["HostIp"] for places in one["NetworkSettings"]["Ports"].values() for place in places or ()]
        assert set(published) <= {"127.0.0.1"}


@pytest.mark.parametrize("service", ["gateway", "profile", "auth"])
def test_image(project: Project, service: str) -> None:
    """An image is small, holds no other service and no compiler, and its code is compiled."""
    one = project.containers(service)[0]
    [image] = json.loads(run("docker", "inspect", one["Image"]))
    assert image["Size"] <= MOST_BYTES
    inside = run("docker", "exec", one["Id"], "sh", "-c", "ls apps; command -v gcc cc make git || true").split()
    assert sorted(inside) == sorted(["__init__.py", "__pycache__", service, "service", "shared"])
    search = "find /app -name '*.py' | wc -l; find /app -name '*.pyc' | wc -l; find /app -name '*.lua' | wc -l"
    sources, compiled, scripts = run("docker", "exec", one["Id"], "sh", "-c", search).split()
    assert sources == compiled
    assert int(scripts) >= len(list((ROOT / "src" / "commontrip").rglob("*.lua")))


async def test_one_circuit(project: Project) -> None:
    """Every replica gets its share; auth fails and all have one open circuit; auth heals and all close it."""
    async with httpx.AsyncClient(timeout=10) as client, Traffic(project) as traffic:

        async def shared() -> bool:
            return len((await client.get(f"{project.auth}/stats")).json()["by_replica"]) == REPLICAS

        async def agree(wanted: str) -> bool:
            seen = await states(project, client)
            return len(seen) == 1 and {state for state, _ in seen} == {wanted}

        await comes(shared, "each replica to ask auth", within=20)
        fault = {"kind": "error", "expires_seconds": 120}
        (await client.put(f"{project.auth}/faults", json=fault)).raise_for_status()
        await comes(lambda: agree("OPEN"), "one open circuit in all replicas", within=30)
        (await client.delete(f"{project.auth}/faults")).raise_for_status()
        await comes(lambda: agree("CLOSED"), "one closed circuit in all replicas", within=30)
    assert not traffic.failures
    assert {"live", "stale"} <= set(traffic.answers)


async def test_a_replica_stops_and_comes_back(project: Project) -> None:
    """Under load a replica is stopped: no request fails, its exit status is 0, well within the grace. It comes back."""
    name = project.containers("profile")[0]["Name"].lstrip("/")
    async with Traffic(project) as traffic:
        before = len(traffic.answers)
        await asyncio.to_thread(run, "docker", "stop", name)
        [stopped] = json.loads(await asyncio.to_thread(run, "docker", "inspect", name))
        after = len(traffic.answers)
        await asyncio.to_thread(run, "docker", "start", name)
        [started] = json.loads(await asyncio.to_thread(run, "docker", "inspect", name))
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"{address(started)}/readyz")).status_code == httpx.codes.OK
                except httpx.HTTPError:
                    return False

            await comes(ready, "the replica to be ready", within=20)
        seconds = time.time() - datetime.fromisoformat(started["State"]["StartedAt"]).timestamp()
        print(f"ready {seconds:.2f} s after the start of its process")
    assert (stopped["State"]["ExitCode"], traffic.failures) == (0, [])
    assert after > before


@pytest.mark.parametrize("service", ["gateway", "profile", "auth"])
def test_stopped_as_soon_as_started(project: Project, service: str) -> None:
    """SIGTERM is heard also while Python still reads its modules: nobody waits for the end of the grace."""
    name = project.containers(service)[0]["Name"].lstrip("/")
    run("docker", "stop", name)
    run("docker", "start", name)
    run("docker", "stop", name)
    [stopped] = json.loads(run("docker", "inspect", name))
    assert stopped["State"]["ExitCode"] in (0, 128 + signal.SIGTERM)
    run("docker", "start", name)
