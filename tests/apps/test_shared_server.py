"""The process: what keeps it from starting is one line and an exit status, and all that it logs is JSON."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
_RIVAL = """
import socket
from contextlib import asynccontextmanager
from apps.auth.app import create_app
from apps.auth.settings import Settings
from apps.shared.server import main

def create(settings):
    app, rival = create_app(settings), socket.socket()
    rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    rival.bind((settings.listen_host, settings.port))

    @asynccontextmanager
    async def lifespan(_):
        rival.listen()
        yield

    app.router.lifespan_context = lifespan
    return app

main("auth", Settings, create)
"""


def test_port_taken_at_the_same_time() -> None:
    """A port that somebody else takes in the moment of the start is one line too, and exit status 1."""
    port, metrics = free_port(), free_port()
    ports = {"AUTH_PORT": str(port), "AUTH_METRICS_PORT": str(metrics)}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    words = [sys.executable, "-c", _RIVAL]
    environment = {**os.environ, **ports, "PYTHONPATH": path}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
    expected = f"auth: AUTH_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (done.returncode, done.stderr) == (1, expected)


@pytest.mark.parametrize("variable", ["AUTH_PORT", "AUTH_METRICS_PORT"])
def test_taken_port(variable: str) -> None:
    """A port that is taken is one line that names the setting, and exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = dict.fromkeys(("AUTH_PORT", "AUTH_METRICS_PORT"), free.getsockname()[1])
        free.close()
        ports[variable] = taken.getsockname()[1]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, **{name: str(port) for name, port in ports.items()}, "PYTHONPATH": path}
        words = [sys.executable, "-m", "apps.auth"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
    expected = f"auth: {variable}: cannot listen on 127.0.0.1:{ports[variable]}: Address already in use\n"
    assert (done.returncode, done.stderr) == (1, expected)
    for line in done.stdout.splitlines():
        assert json.loads(line)["service"] == "auth"
