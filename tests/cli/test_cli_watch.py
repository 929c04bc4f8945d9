"""`watch` without a terminal, and what it does whatever shows it: every transition once, also across losses."""

import asyncio
import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from rich.console import Console

from commontrip import State
from commontrip.cli import _watch
from commontrip.cli._door import Door
from commontrip.cli._lines import Lines
from commontrip.cli._table import picture
from commontrip.cli._watch import Seen, watch
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller
from tests.cli.commands import HOUR, Commands, closed, forced, opened, probing
from tests.cli.hostile import HOSTILE, is_harmless
from tests.cli.terminal import Terminal
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually, wait_until


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back to whoever had them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
async def auth(server: Server, prefix: str) -> AsyncIterator[Caller]:
    """The breaker `auth`, in use by two replicas."""
    caller = Caller(RedisStore.from_url(server.url, prefix=prefix))
    await closed(caller)
    yield caller
    await caller.store.aclose()


class Output:
    """What a watch has printed, line by line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Read what is captured."""
        self._capsys = capsys
        self._out = self._err = ""

    def _read(self) -> None:
        more = self._capsys.readouterr()
        self._out += more.out
        self._err += more.err

    @property
    def lines(self) -> list[str]:
        """Everything so far."""
        self._read()
        return self._out.splitlines()

    @property
    def errors(self) -> list[str]:
        """Everything so far on the error stream."""
        self._read()
        return self._err.splitlines()

    async def reaches(self, count: int) -> list[str]:
        """Return the lines once there are so many."""
        await eventually(lambda: len(self.lines) >= count, f"{count} lines")
        return self.lines


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """What is printed."""
    return Output(capsys)


_following: list[Seen] = []
"""What the watch that runs knows."""


@contextlib.asynccontextmanager
async def watching(
    url: str,
    prefix: str,
    *names: str,
    pause: float = 3600.0,
    as_json: bool = False,
    expected: type[Exception] | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """Watch until the end of the block, once the first look is over; ended as by Ctrl-C."""
    door = Door(url, prefix)
    began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    turns = Seen._turns

    async def ready(seen: Seen) -> None:
        _following[:] = [seen]
        began.set_result(None)
        await turns(seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seen, "_turns", ready)
        task = asyncio.create_task(watch(door, names, pause, as_json=as_json))
        await asyncio.wait({task, began}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield task
        finally:
            if not task.done():
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait({task})
            await door.aclose()
    if expected:
        assert type(task.exception()) is expected
    else:
        task.result()


async def test_a_line_for_each_transition(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """Every transition is one line, in order, without those from before the start."""
    await auth.open(HOUR)
    await auth.change(State.CLOSED)
    async with watching(server.url, prefix):
        for _ in range(3):
            await auth.open(HOUR, failures=12, calls=20)
            await auth.change(State.CLOSED, reason="probes_succeeded")
        lines = await output.reaches(6)
    assert [line.split()[2:6] for line in lines] == [
        ["auth", "CLOSED", "->", "OPEN"],
        ["auth", "OPEN", "->", "CLOSED"],
    ] * 3
    assert "(tripped) by r1, 12 of 20 calls failed, cooldown 1h00m" in lines[0]


async def test_a_json_object_for_each_transition(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """With --json every line is an object, as `history` has it, under the breaker's name."""
    async with watching(server.url, prefix, as_json=True):
        await forced(auth, note=HOSTILE)
        [line] = await output.reaches(1)
    found = json.loads(line)
    assert (found["breaker"], found["state"], found["note"]) == ("auth", "OPEN", HOSTILE)
    assert is_harmless(line)


async def test_hostile_notes_make_no_further_line(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """A note with line ends and escapes is part of its line."""
    async with watching(server.url, prefix):
        await forced(auth, note=HOSTILE)
        await auth.change(State.CLOSED)
        lines = await output.reaches(2)
    assert len(lines) == 2
    assert all(is_harmless(line) for line in lines)


async def test_new_breakers_are_watched_from_their_first_use(
    auth: Caller, output: Output, prefix: str, server: Server
) -> None:
    """A breaker that is made later is told with its seed; one that is not asked for is not."""
    async with watching(server.url, prefix):
        await Caller(auth.store, "billing").seed()
        await output.reaches(1)
    async with watching(server.url, prefix, "search"):
        await auth.open(HOUR)
        await Caller(auth.store, "search").seed()
        lines = await output.reaches(2)
    assert [line.split()[2:6] for line in lines] == [[name, "new", "->", "CLOSED"] for name in ("billing", "search")]


async def test_a_lost_connection_hides_nothing(
    fresh_server: Callable[..., Server], output: Output, prefix: str
) -> None:
    """Transitions while the subscription was broken are told when it is back, each once."""
    server = fresh_server()
    auth = Caller(RedisStore.from_url(server.url, prefix=prefix))
    await auth.seed()
    async with watching(server.url, prefix, as_json=True):
        server.cli("CLIENT", "KILL", "TYPE", "pubsub")
        for _ in range(4):
            await auth.open(HOUR)
            await auth.change(State.CLOSED)
        await output.reaches(8)
        await auth.open(HOUR)
        lines = await output.reaches(9)
    assert [json.loads(line)["epoch"].split(".")[1] for line in lines] == [str(number) for number in range(1, 10)]
    await auth.store.aclose()


async def test_a_transition_without_a_past_is_told(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """When the stream is lost, the transition that holds is told all the same, once."""
    await auth.open(HOUR)
    record = str(server.cli("GET", f"{prefix}:auth:v1:epoch")).split()
    async with watching(server.url, prefix, pause=0.1):
        record[0], record[2] = "abc.7.def", str(int(record[2]) + 9_000)
        server.cli("DEL", f"{prefix}:auth:transitions")
        server.cli("SET", f"{prefix}:auth:v1:epoch", " ".join(record))
        await output.reaches(1)
        server.cli("PUBLISH", f"{prefix}:events", "auth again")
        await Caller(auth.store, "billing").seed()  # which is told after what there was to tell of auth
        lines = await output.reaches(2)
    assert [line.split()[2] for line in lines] == ["auth", "billing"]


async def test_what_was_before_the_start_is_not_told(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """A breaker that was forgotten and comes back is told from its new seed on, although its history is longer."""
    await auth.open(HOUR)
    before = (await auth.store.history("auth", 1))[0][0].since
    server.cli("DEL", f"{prefix}:auth:v1:epoch", f"{prefix}:auth:state")
    await eventually(lambda: _clock(server) > before + 0.005, "the next moment")
    async with watching(server.url, prefix):
        await auth.seed()
        [line] = await output.reaches(1)
    assert line.split()[2:6] == ["auth", "new", "->", "CLOSED"]


def _clock(server: Server) -> float:
    said = server.cli("TIME")
    assert isinstance(said, list)
    return int(str(said[0])) + int(str(said[1])) / 1e6


async def test_a_clock_gone_back_hides_nothing(auth: Caller, output: Output, prefix: str, server: Server) -> None:
    """After a failover to a slower clock transitions are told as before."""
    async with watching(server.url, prefix):
        _following[0]._began += 3600.0
        await auth.open(HOUR)
        [line] = await output.reaches(1)
    assert "CLOSED -> OPEN" in line


async def test_a_signal_that_is_ignored_stays_so(auth: Caller, prefix: str, server: Server) -> None:
    """Under nohup the end of the terminal is not the end of the watch."""
    await auth.read()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    async with watching(server.url, prefix):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL


async def test_anything_on_the_channel(cluster: Cluster, output: Output, prefix: str) -> None:
    """What is no breaker's name is passed over, and stops nothing."""
    auth = Caller(RedisStore.from_url(cluster.url, prefix=prefix))
    await auth.seed()
    async with watching(cluster.url, prefix):
        for message in (HOSTILE, "", "a:b c", "} x", "nobody x"):
            cluster.nodes[0].cli("PUBLISH", f"{prefix}:events", message.encode())
        await auth.open(HOUR)
        [line] = await output.reaches(1)
    assert "CLOSED -> OPEN" in line
    assert output.errors == []
    await auth.store.aclose()


async def test_nothing_is_asked_between_two_polls(auth: Caller, output: Output, prefix: str, proxy: Proxy) -> None:
    """While nothing happens Redis is asked once an interval, not more often."""
    async with watching(proxy.url, prefix):
        await auth.open(HOUR)
        await output.reaches(1)
        proxy.forget()
        await asyncio.sleep(10 * _watch._REST)  # several turns, if there were any
        assert proxy.counts.total() <= 6  # of the turns under way; ten more would be thirty
    async with watching(proxy.url, prefix, pause=0.1):
        proxy.forget()
        await eventually(lambda: proxy.counts["EVALSHA"] >= 6, "three polls")


async def test_redis_lost_and_back(fresh_server: Callable[..., Server], output: Output, prefix: str) -> None:
    """That Redis is away is one line on the error stream, that it is back another."""
    server = fresh_server()
    async with watching(server.url, prefix, pause=0.05):
        await asyncio.to_thread(server.kill)
        await eventually(lambda: len(output.errors) == 1, "the loss")
        await asyncio.to_thread(server.start)
        await eventually(lambda: len(output.errors) == 2, "the return")
    first, second = output.errors
    assert first.startswith(f"commontrip: Redis at {server.url} did not do ")
    assert second == "commontrip: Redis answers again"


async def test_a_frozen_redis_is_away(
    fresh_server: Callable[..., Server], output: Output, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that hangs is said to be away within the limit, and nothing heard meanwhile is lost."""
    monkeypatch.setattr(_watch, "SILENCE", 0.3)
    server = fresh_server()
    auth = Caller(RedisStore.from_url(server.url, prefix=prefix))
    await auth.seed()
    async with watching(server.url, prefix, pause=0.1):
        server.freeze()
        await eventually(lambda: len(output.errors) == 1, "the loss")
        server.thaw()
        await auth.open(HOUR)
        await output.reaches(1)
    assert "no answer for 0.3 s" in output.errors[0]
    await auth.store.aclose()


async def test_a_face_that_fails_ends_it(
    auth: Caller, prefix: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in showing is raised as it is, for whoever started the watch."""

    def fail(text: str, *, error: bool = False) -> None:
        raise BrokenPipeError(text, error)

    monkeypatch.setattr("commontrip.cli._words.say", fail)
    async with watching(server.url, prefix, expected=BrokenPipeError) as task:
        await auth.open(HOUR)
        await asyncio.wait({task})


def test_a_reader_that_goes_ends_it(commontrip: Commands, server: Server) -> None:
    """`commontrip watch | head -1` ends at the next line, without a traceback."""
    commontrip.given(closed)
    settings = {name: value for name, value in commontrip.environment.items() if value is not None}
    command = [sys.executable, "-m", "commontrip.cli", "watch"]
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        channel = f"{commontrip.prefix}:events"
        wait_until(lambda: server.cli("PUBSUB", "NUMSUB", channel) == [channel, 1], "the subscription")
        assert running.stdout is not None
        assert running.stderr is not None
        while not select.select([running.stdout], [], [], 0.2)[0]:  # until its first look is over
            commontrip.given(opened)
        running.stdout.readline()
        running.stdout.close()
        commontrip.given(opened)
        assert running.wait(10) == 1
        assert running.stderr.read() == ""


def test_ctrl_c_is_exit_code_0(commontrip: Commands, server: Server) -> None:
    """The command ends well when it is told to."""

    def interrupt() -> None:
        channel = f"{commontrip.prefix}:events"
        wait_until(lambda: server.cli("PUBSUB", "NUMSUB", channel) == [channel, 1], "the subscription")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = commontrip("watch")
    thread.join()
    assert (done.exit_code, done.output) == (0, "")


async def test_a_table_on_a_terminal(
    auth: Caller, prefix: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the output is a terminal there is a table, and no line is told."""
    terminal = Terminal(80, 24)
    with os.fdopen(os.dup(terminal.inner), "w", encoding="utf-8") as inner, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", inner)
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", "80")
        patch.setenv("LINES", "24")
        async with watching(server.url, prefix):
            await eventually(terminal.shows("auth", "CLOSED"), "the breaker")
            await auth.open(HOUR)
            await eventually(terminal.shows("auth", "OPEN"), "the trip")
    terminal.close()


@pytest.mark.parametrize("term", ["dumb", "", None])
def test_no_table_where_the_cursor_cannot_move(monkeypatch: pytest.MonkeyPatch, term: str | None) -> None:
    """A dumb terminal gets lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term) if term is not None else monkeypatch.delenv("TERM", raising=False)
    assert _watch._face(as_json=False).tells


# -- pictures


async def looked(caller: Caller, *names: str) -> Seen:
    """Look once."""
    assert isinstance(caller.store, RedisStore)
    port = caller.store.client.connection_pool.connection_kwargs["port"]
    door = Door(f"redis://127.0.0.1:{port}", caller.store.prefix)
    seen = Seen(door, names, 1.0, Lines(as_json=False))
    await seen._turn()
    await door.aclose()
    return seen


def drawn(seen: Seen, width: int = 80, height: int = 24) -> list[str]:
    """Return the picture's lines."""
    paper = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    paper.print(picture(seen, width, height))
    assert isinstance(paper.file, io.StringIO)
    return [line.rstrip() for line in paper.file.getvalue().splitlines()]


async def test_what_is_not_closed_comes_first(auth: Caller) -> None:
    """What an operator looks for is on top, and what has no room is counted."""
    await opened(Caller(auth.store, "z-open"))
    await probing(Caller(auth.store, "y-probing"))
    await forced(Caller(auth.store, "x-forced"))
    for number in range(20):
        await Caller(auth.store, f"b{number:02}").seed()
    lines = drawn(await looked(auth), 120, 10)
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["z-open", "OPEN"],
        ["x-forced", "FORCED_OPEN"],
        ["y-probing", "HALF_OPEN"],
        ["auth", "CLOSED"],
    ]
    assert lines[-1] == "and 17 more, for which there is no room"
    assert len(lines) == 10


@pytest.mark.parametrize("width", [20, 40, 61, 62, 80, 109, 110, 300])
async def test_every_width_does(auth: Caller, width: int) -> None:
    """No line is wider than the terminal, whatever names are."""
    await opened(Caller(auth.store, "n" * 200))
    seen = await looked(auth)
    seen.trouble = "Redis is away " * 30
    lines = drawn(seen, width, 24)
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith("OLD NEWS") for line in lines)
    assert len(lines) == {20: 8, 40: 8, 61: 8, 62: 7, 80: 7, 109: 7, 110: 5, 300: 5}[width]


async def test_an_empty_store(auth: Caller, server: Server, prefix: str) -> None:
    """A breaker that is forgotten leaves the picture; where there is none, that is said."""
    seen = await looked(auth)
    assert len(drawn(seen)) == 4
    for part in ("epoch", "state"):
        server.cli("DEL", f"{prefix}:auth:{'v1:' * (part == 'epoch')}{part}")
    seen._poll_at = 0.0
    seen.door = Door(f"redis://127.0.0.1:{server.port}", prefix)
    await seen._turn()
    await seen.door.aclose()
    assert drawn(seen)[-1] == f"no breaker uses the prefix {prefix} yet"


async def test_a_breaker_that_is_not_there_yet(auth: Caller) -> None:
    """Who asks for a breaker by name sees that it is awaited."""
    lines = drawn(await looked(auth, "later"))
    assert lines[2].split()[:3] == ["later", "not", "there"]
    assert lines[3] == "  waiting for its first use"


async def test_a_state_set_by_hand(auth: Caller, server: Server, prefix: str) -> None:
    """What somebody SET and nobody has obeyed yet is said."""
    server.cli("SET", f"{prefix}:auth:state", "OPEN")
    assert "  SET OPEN by hand; " in "\n".join(drawn(await looked(auth)))
