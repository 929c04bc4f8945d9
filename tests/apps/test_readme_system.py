"""The README's commands do what it says: one after the other, on the system that `make up` runs."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHOWN = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
STEPS = [(command, said) for command, said in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", SHOWN, re.MULTILINE)]
PORTS = ("GATEWAY_PORT", "GATEWAY_METRICS_PORT", "AUTH_PORT", "AUTH_METRICS_PORT")


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, str]]:
    """Run the system of `make up` on free ports; give what the README says, and what it is here."""
    ports = {name: str(free_port()) for name in PORTS}
    first = _six_in_a_row()
    url = f"redis://127.0.0.1:{free_port()}"
    replicas = {"PROFILE_PORT": str(first), "PROFILE_METRICS_PORT": str(first + 3)}
    run = [sys.executable, "-m", "apps.laptop", "up"]
    with subprocess.Popen(
        run, cwd=ROOT, env=os.environ | ports | replicas | {"REDIS_URL": url}, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout
        assert any("Ctrl-C ends it all" in line for line in up.stdout)
        yield {
            "localhost:8080": f"127.0.0.1:{ports['GATEWAY_PORT']}",
            "localhost:8082": f"127.0.0.1:{ports['AUTH_PORT']}",
            ".venv/bin/commontrip": f"REDIS_URL={url} {shlex.quote(sys.executable)} -m commontrip.cli",
        }
        up.send_signal(signal.SIGINT)
        up.stdout.read()
    assert up.returncode == 0


def _six_in_a_row() -> int:
    """Return a port that is free, as are the five after it."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + 6):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def _matches(said: str, expected: str) -> bool:
    """Compare; `…` stands for anything on one line, a line of it for any lines."""
    lines = [
        r"(?:.*\n)*" if line.strip() == "…" else r".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in expected.strip().splitlines()
    ]
    return re.fullmatch("".join(lines), said.rstrip() + "\n" if said.strip() else "") is not None


def test_the_story_comes_true(places: dict[str, str]) -> None:
    """Each command prints what is shown beneath it: live, stale, the circuit open and closed again."""
    assert len(STEPS) == 10
    for command, expected in STEPS:
        here = command
        for stated, real in places.items():
            here = here.replace(stated, real)
        done = subprocess.run(["/bin/bash", "-c", here], capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert _matches(done.stdout, expected), f"{command}\nprinted\n{done.stdout}\nnot\n{expected}"


def test_every_target_that_it_names_is_one_of_make() -> None:
    """No command of make is named that is not there."""
    listed = subprocess.run(
        ["/usr/bin/env", "make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert named == {"up", "demo", "test", "check", "bench", "mutants", "e2e"}
    assert {f"make {name}" for name in named} <= set(re.findall(r"make \w+", listed))


def test_everything_that_it_links_is_there() -> None:
    """No link of it, or of the pages in docs, leads nowhere."""
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
