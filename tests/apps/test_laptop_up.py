"""`make up`: the system serves, tells of transitions, and ends whole; what is wrong is one line."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.apps.laptop import READY, Laptop, gone
from tests.support.waiting import wait_until

Start = Callable[..., Laptop]


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Start]:
    """Start it; takes settings."""
    started: list[Laptop] = []

    def start(command: str = "up", *, through: tuple[str, ...] = (), **settings: str) -> Laptop:
        started.append(Laptop(tmp_path, command, through=through, **settings))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_serves_tells_of_a_transition_and_ends_whole(laptop: Start) -> None:
    """It answers at the gateway, shows a trip of the fleet once, and Ctrl-C ends every process with status 0."""
    up = laptop()
    up.until(READY)
    children = up.children()
    assert len(children) == 7  # Redis, auth, three replicas, the gateway and the guard
    assert [up.ask("/profile/ada").json()["auth"]["source"] for _ in range(3)] == ["live"] * 3  # one at each replica
    order = {"kind": "error", "expires_seconds": 60}
    httpx.put(up.url("AUTH_PORT") + "/faults", json=order, trust_env=False).raise_for_status()
    sources = [up.ask("/profile/ada").json()["auth"]["source"] for _ in range(60)]
    assert set(sources) == {"stale"}
    up.until("CLOSED -> OPEN")
    up.signal(signal.SIGINT)
    assert up.ends() == 0
    assert gone(children)
    [line] = [line for line in up.out if "CLOSED -> OPEN" in line]
    assert "auth  CLOSED -> OPEN  tripped, by profile-" in line
    assert [line for line in up.out if "warning  auth answered 503" in line]
    assert up.complaints == []


def test_takes_the_redis_login_and_ends_at_sigterm(laptop: Start) -> None:
    """User and password in REDIS_URL are those of the Redis that is started, and SIGTERM ends all as Ctrl-C does."""
    up = laptop()
    up.close()
    up = laptop(REDIS_URL=up.settings["REDIS_URL"].replace("://", "://ada:p%22%40s%20s@"))
    up.until(READY)
    children = up.children()
    assert up.ask("/profile/ada").json()["auth"]["source"] == "live"
    up.process.terminate()
    assert up.ends() == 0
    assert gone(children)
    assert up.complaints == []


def test_a_killed_up_leaves_nothing(laptop: Start) -> None:
    """After SIGKILL its processes end too."""
    up = laptop()
    up.until(READY)
    children = up.children()
    up.process.kill()
    wait_until(lambda: gone(children), "the end of its processes")


def test_ends_with_make(laptop: Start) -> None:
    """It ends when make, who has started it, is killed."""
    up = laptop(through=("/bin/sh", "-c", '"$@"; true', "make"), MAKELEVEL="1")
    up.until(READY)
    [pid] = up.children()
    up.process.kill()
    wait_until(lambda: gone([pid]), "its end")


def test_a_dead_child_is_one_line(laptop: Start) -> None:
    """When a process dies, that is said in one line, the rest is stopped, and the status is 1."""
    up = laptop()
    up.until(READY)
    children = up.children()
    first = httpx.get(up.url("PROFILE_PORT") + "/healthz", trust_env=False)
    assert first.is_success
    os.kill(children[1], signal.SIGKILL)
    assert up.ends() == 1
    assert gone(children)
    assert up.complaints == ["laptop: redis ended by SIGKILL; everything is stopped\n"]


def test_a_child_that_cannot_start_is_one_line(laptop: Start) -> None:
    """What all three replicas stumble over is said once, by its setting."""
    up = laptop(PROFILE_PEOPLE_PATH="/there/is/none")
    assert up.ends() == 1
    [line] = up.complaints
    assert "profile: PROFILE_PEOPLE_PATH: cannot read /there/is/none" in line


@pytest.mark.parametrize("setting", ["GATEWAY_PORT", "PROFILE_METRICS_PORT"])
def test_a_taken_port_is_one_line(laptop: Start, setting: str) -> None:
    """A taken port is named by its setting, before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = laptop(**{setting: str(port)})
        assert up.ends() == 2
    [line] = up.complaints
    assert line.startswith(f"laptop: {setting}: cannot listen on 127.0.0.1:{port}: ")
    assert up.out == []


def test_a_taken_port_of_redis_is_one_line(laptop: Start) -> None:
    """Where Redis is to be started and something else listens, that is said by REDIS_URL, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = laptop(REDIS_URL=f"redis://127.0.0.1:{port}/0")
        assert up.ends() == 2
    [line] = up.complaints
    assert line.startswith(f"laptop: REDIS_URL: cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith("a Redis is to be started there: name a free port\n")


def test_a_redis_that_is_not_there_is_one_line(laptop: Start, tmp_path: Path) -> None:
    """A Redis elsewhere that does not answer is named by its setting, and nothing else is started."""
    up = laptop(REDIS_URL=f"unix://{tmp_path}/none.sock")
    assert up.ends() == 1
    assert up.complaints == ["laptop: REDIS_URL: no Redis answers there within 3 s; everything is stopped\n"]


def test_bad_settings_are_told_together(laptop: Start, tmp_path: Path) -> None:
    """All bad values of a .env file are told at once, each once, by their names."""
    (tmp_path / ".env").write_text("LOG_LEVEL=loud\nGATEWAY_STREAMS=many\n")
    up = laptop()
    assert up.ends() == 2
    assert sorted(line.split(": ")[1] for line in up.complaints) == ["GATEWAY_STREAMS", "LOG_LEVEL"]


def test_a_line_that_is_no_setting_is_named(laptop: Start, tmp_path: Path) -> None:
    """A .env file that cannot be parsed is told by its line."""
    (tmp_path / ".env").write_text("# fine\nnot fine\n")
    up = laptop()
    assert up.ends() == 2
    assert up.complaints == ["laptop: .env: line 2 is not NAME=value\n"]
