"""Where Redis is, what is said when it is not there, and what a program can rely on."""

import contextlib
import io
import runpy
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import commontrip.cli as command_line
from commontrip._store import View
from commontrip.cli import _app, _door, _words
from commontrip.cli._facts import Facts
from tests.cli.commands import Commands, closed
from tests.cli.hostile import HOSTILE, is_harmless
from tests.support.cluster import Cluster
from tests.support.sentinel import SentinelPair
from tests.support.servers import Server, free_port

COMMANDS = (["show", "auth"], ["history", "auth"], ["override", "auth", "auto", "--reason", "x"], ["watch"])


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_an_absent_redis_is_exit_code_1(commontrip: Commands, words: list[str]) -> None:
    """Nobody at the address: one line says where and what now."""
    done = commontrip(*words, "--redis-url", f"redis://ann:s3cret@127.0.0.1:{free_port()}")
    assert (done.exit_code, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("commontrip: Redis at redis://127.0.0.1:")
    assert "Connect call failed" in line
    assert "s3cret" not in line


def test_a_redis_that_hangs_is_exit_code_1(
    fresh_server: Callable[..., Server], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that accepts and never answers ends every command within its limit."""
    monkeypatch.setattr("commontrip.cli._app.PATIENCE", 0.2)
    monkeypatch.setattr("commontrip.cli._watch.SILENCE", 0.2)
    server = fresh_server()
    commontrip = Commands(server.url, prefix)
    server.freeze()
    for words in COMMANDS:
        began = time.monotonic()
        done = commontrip(*words)
        assert time.monotonic() - began < 3
        assert (done.exit_code, done.stdout) == (1, "")
        assert "no answer for 0.2 s" in done.stderr


def test_wrong_credentials_are_said(commontrip: Commands, server: Server) -> None:
    """Who may not log in is told to check user and password."""
    done = commontrip("show", "auth", "--redis-url", f"redis://nobody:wrong@127.0.0.1:{server.port}")
    assert done.exit_code == 1
    assert done.stderr.rstrip().endswith("check user, password and rights")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show", "auth", "--redis-url", "http://there"], "the store's address must be redis://"),
        (["show", "auth", "--prefix", "a:b"], "prefix must be 1 to 200 of"),
        (["show", "a b"], "NAME must be 1 to 200 of"),
        (["show", HOSTILE.replace("\0", "")], "NAME must be 1 to 200 of"),
        (["history", "auth", "--limit", "0"], "--limit must be a whole number from 1 to 100000"),
        (["watch", "--interval", "0"], "--interval must be a number at least 0.1"),
        (["watch", "a b"], "NAME must be 1 to 200 of"),
    ],
)
def test_wrong_usage_is_exit_code_2(commontrip: Commands, words: list[str], problem: str) -> None:
    """What is wrong is one line that says what is wanted."""
    done = commontrip(*words)
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert problem in line
    assert is_harmless(line)


def test_the_login_may_come_from_the_environment(commontrip: Commands, server: Server) -> None:
    """REDIS_USERNAME and REDIS_PASSWORD are used as the services use them: if the address has no login."""
    commontrip.given(closed)
    user = commontrip.prefix
    server.cli("ACL", "SETUSER", user, "on", ">a/b?c@d", "~*", "&*", "+@all")
    login = {"REDIS_USERNAME": user, "REDIS_PASSWORD": "a/b?c@d"}
    assert commontrip("show", "auth", **login).exit_code == 0
    assert commontrip("show", "auth", **login | {"REDIS_PASSWORD": "wrong"}).exit_code == 1
    option = f"redis://127.0.0.1:{server.port}/0?client_name=a@b"  # an @ elsewhere is no login
    assert commontrip("show", "auth", **login | {"REDIS_URL": option, "REDIS_PASSWORD": "wrong"}).exit_code == 1
    mine = f"redis://{user}:a%2Fb%3Fc%40d@127.0.0.1:{server.port}"
    assert commontrip("show", "auth", REDIS_URL=mine, REDIS_PASSWORD="wrong").exit_code == 0
    server.cli("ACL", "DELUSER", user)


def test_it_works_on_a_cluster(cluster: Cluster, prefix: str) -> None:
    """Breakers on all masters are found, shown, ordered and examined."""
    commontrip = Commands(cluster.url, prefix)
    names = [f"b{number}" for number in range(6)]
    for name in names:
        commontrip.given(closed, name)
    assert len({cluster.owner(f"{prefix}:{{{name}}}:state").port for name in names}) > 1
    assert commontrip.json("show", "b0")["replicas"] == {"r1": 0.0, "r2": None}
    assert commontrip.json("override", "b0", "forced-open", "--reason", "x")["override"] == "FORCED_OPEN"
    found = commontrip.json("doctor")
    said = [check["says"] for check in found["checks"]]
    assert "it answers; 3 masters" in said
    assert "6 found: 5 CLOSED, 1 FORCED_OPEN" in said
    assert "2 replicas alive" in said


def test_it_works_behind_a_sentinel(sentinel: SentinelPair, prefix: str) -> None:
    """The master is found, by the address that the services use."""
    commontrip = Commands(sentinel.url, prefix)
    commontrip.given(closed)
    assert commontrip.json("show", "auth")["state"] == "CLOSED"
    assert {check["status"] for check in commontrip.json("doctor")["checks"]} == {"ok"}


def test_it_works_through_a_socket(server: Server, prefix: str) -> None:
    """A Unix socket does."""
    commontrip = Commands(server.unix_url, prefix)
    commontrip.given(closed)
    assert commontrip.json("show", "auth")["state"] == "CLOSED"


def test_the_dead_are_not_shown(commontrip: Commands, server: Server) -> None:
    """A replica that has been silent for too long is not among the living, also when nobody is left to forget it."""
    commontrip.given(closed)
    server.cli("ZADD", f"{commontrip.prefix}:replicas", 1, "r2")
    assert commontrip.json("show", "auth")["replicas"] == {"r1": 0.0}


# -- the program


@pytest.mark.parametrize("package", ["typer", "redis"])
def test_a_missing_extra_is_one_line(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without what the extras bring, one line says how to install them."""
    for name in [name for name in sys.modules if name.startswith(("commontrip.cli._", f"{package}."))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("commontrip.redis", "commontrip._redis_url"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["commontrip", "show", "auth"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    wanted = f"commontrip: the package {package} is missing: pip install 'commontrip[cli,redis]'\n"
    assert capsys.readouterr().err == wanted


def test_a_broken_installation_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is missing for another reason is raised."""
    monkeypatch.delitem(sys.modules, "commontrip.cli._app")
    monkeypatch.setitem(sys.modules, "commontrip.cli._app", None)
    with pytest.raises(ModuleNotFoundError, match="_app"):
        command_line.main()


def test_it_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m commontrip.cli` is the same program; its help names every command and the exit codes."""
    monkeypatch.setattr(sys, "argv", ["commontrip", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("commontrip.cli", run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("watch", "show", "history", "override", "doctor", "Exit codes: 0 done"))


def test_it_is_installed_under_its_name() -> None:
    """The package brings the program `commontrip`."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"commontrip": f"{command_line.main.__module__}:main"}


def test_help_imports_nothing_slow() -> None:
    """`--help` needs neither redis-py nor rich, so it is there at once."""
    code = (
        "import sys; sys.argv = ['commontrip', '--help']\n"
        "from commontrip.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({name.partition('.')[0] for name in sys.modules} & {'redis', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_terminal_that_knows_no_such_letters_stops_nothing() -> None:
    """What the output's encoding cannot say is spelt out."""
    code = "from commontrip.cli import _app, _words; _app._prepare(); _words.say('Zoë \\u2192')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == "Zo\\xeb \\u2192\n"


def test_an_output_that_is_no_file_stops_nothing() -> None:
    """Whoever runs a command from Python may have replaced the output."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        _app._prepare()
        _words.say("Zoë")
    assert said.getvalue() == "Zoë\n"


# -- words


def test_a_breaker_that_has_gone() -> None:
    """A breaker that ends between two questions is said not to be there."""
    gone = Facts(name="auth", view=View(status="missing", transition=None, now=0.0))
    assert _words.portrait(gone) == ["auth: not there"]
    assert (gone.remaining, gone.ordered, gone.order, gone.plain()["state"]) == (0.0, 0.0, None, None)


@pytest.mark.parametrize(
    ("duration", "words"),
    [(0.04, "0.0s"), (9.46, "9.4s"), (59.99, "59.9s"), (65, "1m05s"), (10_920, "3h02m"), (522_000, "6d01h")],
)
def test_durations(duration: float, words: str) -> None:
    """A duration has at most two units."""
    assert _words.span(duration) == words


@pytest.mark.parametrize(("text", "length"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), (" 7d ", 604_800)])
def test_durations_are_read(text: str, length: float) -> None:
    """A number of seconds, or with a unit."""
    assert _words.seconds(text) == length


def test_long_texts_are_cut() -> None:
    """Nobody fills the screen with one word."""
    assert _words.clean("x" * 1000) == "x" * 599 + "…"
    assert len(_words.clean("\x1b" * 600)) == 600


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:pass@host:1/2?x=y", "redis://host:1/2"),
        ("redis+sentinel://:p@a:1,b:2/name?sentinel_password=q", "redis+sentinel://a:1,b:2/name"),
        ("unix://ann:p@/path?db=1", "unix:///path"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    """Of an address the login and the options are not shown."""
    assert _door.place(url) == shown
