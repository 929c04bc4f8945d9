"""`watch` in a real terminal: what a person sees, at any width, and what is left behind."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from commontrip import Override, State
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller
from tests.cli.commands import HOUR, closed, opened
from tests.cli.hostile import HOSTILE
from tests.cli.terminal import FIRST_SCREEN, HIDDEN, OTHER_SCREEN, SHOWN, Terminal, program, settings
from tests.support.servers import Server
from tests.support.waiting import eventually

SEEN = 0.2
"""Seconds within which a transition is on the screen."""


@pytest.fixture
async def auth(server: Server, prefix: str) -> AsyncIterator[Caller]:
    """The breaker `auth`, in use by two replicas."""
    store = RedisStore.from_url(server.url, prefix=prefix)
    caller = Caller(store)
    await closed(caller)
    yield caller
    await store.aclose()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal of 80 by 24."""
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def place(server: Server, prefix: str) -> dict[str, str]:
    """Where the breakers are, as the environment says it."""
    return {"REDIS_URL": server.url, "REDIS_PREFIX": prefix}


async def test_a_trip_is_on_the_screen_at_once(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """In 80 by 24 a trip is pushed to the screen within 200 ms of the commit: no poll is near."""
    took = []
    with program(terminal, "watch", "--interval", "3600", **place):
        await eventually(terminal.shows("auth", "CLOSED", "2/3", "1/2"), "the breaker to be shown")
        assert terminal.style("CLOSED") == ("green", False)
        for _ in range(3):
            await auth.open(HOUR, failures=12, calls=20)
            began = time.monotonic()
            await eventually(terminal.shows("OPEN", "12/20", "59m", "ago: tripped, by r1"), "the trip")
            took.append(time.monotonic() - began)
            assert terminal.style("OPEN") == ("red", True)
            await auth.change(State.CLOSED, reason="probes_succeeded")
            await eventually(terminal.shows("CLOSED", "probes_succeeded"), "the recovery")
    print(f"on the screen after {[round(one * 1000) for one in took]} ms")
    assert min(took) < SEEN


async def test_a_narrow_terminal(auth: Caller, place: dict[str, str]) -> None:
    """In 40 columns everything is there, on three lines, and no line is broken."""
    terminal = Terminal(40, 20)
    await auth.open(HOUR, failures=12, calls=20)
    with program(terminal, "watch", **place):
        await eventually(terminal.shows("auth", "OPEN", "59m", "failed 12/20, probes 0, heard by 1/2"), "it")
        await eventually(terminal.shows("ago: tripped, by r1"), "the last transition")
        lines = [line.rstrip() for line in terminal.look().splitlines() if line.strip()]
        assert len(lines) == 4, lines
    terminal.close()


async def test_without_colour(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """With NO_COLOR the words say it all."""
    await auth.open(HOUR)
    with program(terminal, "watch", NO_COLOR="1", **place):
        await eventually(terminal.shows("auth", "OPEN"), "the breaker to be shown")
        assert terminal.style("OPEN")[0] == "default"


async def test_a_countdown_runs(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """What is left of a cooldown runs down between two polls, until a call is due."""
    with program(terminal, "watch", "--interval", "3600", **place):
        await eventually(terminal.shows("auth", "CLOSED"), "the breaker to be shown")
        await auth.open(1.5)
        await eventually(terminal.shows("OPEN", " 0."), "the cooldown to run")
        await eventually(terminal.shows("OPEN", " due "), "the cooldown to be over")


async def test_the_window_changes_its_size(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """When the window is dragged the picture fits at once, and nothing of the old one stays."""
    await auth.open(HOUR)
    with program(terminal, "watch", **place):
        await eventually(terminal.shows("breaker", "heard by"), "the table")
        terminal.resize(40, 12)
        await eventually(terminal.shows("failed 0/0,"), "the narrow picture")
        assert "last transition" not in terminal.look()
        terminal.resize(130, 12)
        await eventually(terminal.shows("last transition"), "the wide picture")
        [row] = [line for line in terminal.look().splitlines() if "auth" in line]
        assert "ago: tripped, by r1" in row


@pytest.mark.parametrize("how", ["key", signal.SIGTERM, signal.SIGHUP])
async def test_leaving_restores_the_terminal(
    auth: Caller, terminal: Terminal, place: dict[str, str], how: str | signal.Signals
) -> None:
    """Ctrl-C, or a signal, ends it with exit code 0; screen, cursor and modes are as before."""
    await auth.read()
    before = settings(terminal)
    with program(terminal, "watch", **place) as running:
        await eventually(terminal.shows("auth"), "the breaker to be shown")
        if isinstance(how, signal.Signals):
            running.send_signal(how)
        else:
            os.write(terminal.outer, b"\x03")
        await eventually(lambda: running.poll() is not None, "the program to end")
    assert running.returncode == 0
    terminal.look()
    written = terminal.written
    assert 0 <= written.rfind(OTHER_SCREEN) < written.rfind(FIRST_SCREEN)
    assert 0 <= written.rfind(HIDDEN) < written.rfind(SHOWN)
    assert settings(terminal) == before
    assert b"Traceback" not in written


async def test_hostile_names_and_notes(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """What others wrote stays on its line, moves nothing, and is no markup."""
    order = {"override": Override.FORCED_OPEN, "override_for": HOUR, "reason": "override"}
    await auth.open(HOUR, note=f"{HOSTILE}: x", **order)
    terminal.resize(250, 24)
    with program(terminal, "watch", **place):
        await eventually(terminal.shows("FORCED_OPEN", r"\x1b[31m", "[red]markup[/red]"), "the order")
        rows = [line.rstrip() for line in terminal.look().splitlines() if line.strip()]
        assert len(rows) == 3
    assert HOSTILE[:5].encode() not in terminal.written
    assert "\u202e".encode() not in terminal.written


async def test_redis_lost_and_back(fresh_server: Callable[..., Server], terminal: Terminal, prefix: str) -> None:
    """While Redis is away the last picture stays, marked as old; when it is back the mark goes."""
    server = fresh_server()
    auth = Caller(RedisStore.from_url(server.url, prefix=prefix))
    await closed(auth)
    await auth.store.aclose()
    with program(terminal, "watch", "--interval", "0.2", REDIS_URL=server.url, REDIS_PREFIX=prefix):
        await eventually(terminal.shows("auth", "CLOSED"), "the breaker to be shown")
        await asyncio.to_thread(server.kill)
        await eventually(terminal.shows("auth", "CLOSED", "OLD NEWS"), "the loss")
        await asyncio.to_thread(server.start)
        await eventually(terminal.shows("no breaker uses the prefix"), "the empty store")
        assert "OLD NEWS" not in terminal.look()
        await opened(auth)
        await auth.store.aclose()
        await eventually(terminal.shows("auth", "OPEN"), "the new breaker")


async def test_doctor_in_a_terminal(auth: Caller, terminal: Terminal, place: dict[str, str]) -> None:
    """The doctor's findings can be read in 80 columns."""
    await auth.read()
    with program(terminal, "doctor", **place) as running:
        await eventually(terminal.shows("reachable", "breakers", "1 found: 1 CLOSED"), "the findings")
        await eventually(lambda: running.poll() is not None, "the program to end")
    assert running.returncode == 0
