"""The rights of the one user of the chart's Redis: enough for all that we do, and no more, on a real server."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import respx

from apps.auth import app as auth_app
from apps.auth.settings import Settings as Auth
from apps.profile import app as profile_app
from apps.profile.settings import Settings as Profile
from commontrip import Breakers, CircuitOpenError, ConsecutiveFailures, Cooldown, Override, Policy, SuccessRatio
from commontrip.redis import RedisStore
from tests.apps.running import served
from tests.chart.rendering import ROOT, render
from tests.support.resp import Connection, ReplyError
from tests.support.servers import Server, Started, free_port
from tests.support.waiting import eventually, wait_until

PASSWORD = "a p@ss/word:with #&| all'\"$of`it"  # noqa: S105
_RULES = render().config("demo-redis")["users.acl"].splitlines()[1].split()[4:]
AUTH = "http://auth.test"


class Confined:
    """A real server on which the chart's user has the chart's rights."""

    def __init__(self, server: Server) -> None:
        """Make the user, beside the server's own, which looks on."""
        self.server = server
        _allow(server, "commontrip", f">{PASSWORD}")
        self.login = {"redis_username": "commontrip", "redis_password": PASSWORD}

    @property
    def refused(self) -> list[str]:
        """What was refused for want of rights; which library it is, servers before 7.2 are not told."""
        entries: Any = self.server.cli("ACL", "LOG")
        return [str(entry) for entry in entries if "setinfo" not in str(entry)]


def _allow(server: Server, user: str, login: str) -> None:
    """Give a user the chart's rights, as far as an older server knows them: the chart's own is 8."""
    try:
        server.cli("ACL", "SETUSER", user, "reset", "on", login, *_RULES)
    except ReplyError as error:
        if "setinfo" not in str(error):
            raise
        rules = [rule for rule in _RULES if rule != "+client|setinfo"]
        server.cli("ACL", "SETUSER", user, "reset", "on", login, *rules)


@pytest.fixture
def confined(fresh_server: Callable[..., Server]) -> Confined:
    """A server of the test's own."""
    return Confined(fresh_server())


def _store(confined: Confined) -> RedisStore:
    settings = Profile(redis_url=confined.server.url, **confined.login)
    return RedisStore.from_url(settings.redis_address)


async def test_a_breaker_trips_and_heals_with_these_rights(confined: Confined) -> None:
    """Through every state, an override, the history and the fleet, on two replicas: nothing is refused."""
    policy = Policy(
        trip=ConsecutiveFailures(3), recover=SuccessRatio(1, 2), cooldown=Cooldown(0.05, jitter=0), probe_lease=1
    )
    async with Breakers(_store(confined), store_budget=1) as one, Breakers(_store(confined), store_budget=1) as other:
        breaker, witness = one.get("auth", policy), other.get("auth", policy)

        async def call(error: type[Exception] | None = None) -> None:
            if error:
                raise error

        await witness.call(call)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await breaker.call(call, ZeroDivisionError)
        await eventually(lambda: witness.snapshot.state == "OPEN", "the other replica to open")
        healed = 0
        while healed < 2:
            try:
                await breaker.call(call)
                healed += 1
            except CircuitOpenError as refusal:
                await eventually(lambda: breaker.snapshot.remaining == 0, f"{refusal}")
        await eventually(lambda: witness.snapshot.state == "CLOSED", "the other replica to close")
        await breaker.override(Override.FORCED_OPEN, author="test", reason="drill", seconds=60)
        await breaker.override(None, author="test", reason="over")
        assert len(await breaker.history(10)) >= 5
        assert len(await one.fleet("auth")) == 2
    assert confined.refused == []


async def test_the_services_work_with_these_rights(confined: Confined, respx_mock: respx.MockRouter) -> None:
    """Profile's memory and auth's faults are not refused anything either."""
    respx_mock.get(f"{AUTH}/users/ada").respond(json={"user_id": "ada", "roles": ["admin"], "valid_until": None})
    url = confined.server.url
    profile = profile_app.create_app(
        Profile(redis_url=url, auth_url=AUTH, breaker_store_budget_seconds=1, **confined.login)
    )
    auth = auth_app.create_app(Auth(redis_url=url, faults=True, **confined.login))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(served(profile))
        orders = await stack.enter_async_context(served(auth))
        assert (await client.get("/profile/ada")).json()["auth"]["source"] == "live"
        await eventually(lambda: bool(confined.server.cli("KEYS", "cb:profile:known:*")), "the memory to be written")
        for path in ("/breakers", "/breakers/auth", "/breakers/auth/transitions"):
            assert (await client.get(path)).status_code == 200
        assert (await orders.put("/faults", json={"kind": "error", "expires_seconds": 9})).status_code == 200
        assert (await orders.get("/faults")).json()["kind"] == "error"
        assert (await orders.delete("/faults")).status_code == 200
    assert confined.refused == []


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("MONITOR",),
        ("SCRIPT", "FLUSH"),
        ("GET", "other:auth:state"),
        ("SET", "cbx", "1"),
        ("PUBLISH", "other:events", "x"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
        ("EVAL", "return redis.call('SET', 'other:x', '1')", "1", "cb:x"),
    ],
    ids=" ".join,
)
def test_the_rest_is_refused(server: Server, command: tuple[str, ...]) -> None:
    """Neither other keys nor commands that reach beyond one's own."""
    _allow(server, "chart-rights", "nopass")
    with pytest.raises(ReplyError, match=r"NOPERM|No permissions|ACL failure|can't (run|access)"):
        _as_user(server, *command)
    server.cli("ACL", "DELUSER", "chart-rights")


def _as_user(server: Server, *command: str) -> None:
    with contextlib.closing(Connection(server.port, timeout=5)) as connection:
        connection.ask("AUTH", "chart-rights", "any")
        connection.ask(*command)


def test_every_command_in_the_code_is_among_the_rights() -> None:
    """What a script or a client calls is in the list; who adds a command sees this test."""
    allowed = {rule[1:].partition("|")[0].upper() for rule in _RULES if rule.startswith("+")}
    folders = [ROOT / "src/commontrip/lua", ROOT / "apps/profile", ROOT / "apps/auth"]
    scripts = "\n".join(script.read_text() for folder in folders for script in folder.glob("*.lua"))
    called = set(re.findall(r"redis\.p?call\('([A-Z]+)'", scripts)) | set(re.findall(r"\{'([A-Z]{3,})', key", scripts))
    assert len(called) > 12
    assert called <= allowed


class ChartsRedis(Started):
    """The chart's Redis as its container starts it, with paths of this machine."""

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        """Lay out its files."""
        self.server, self.port = Server(), free_port()
        self.folders = run, etc, data, programs = [folder / name for name in ("run", "etc", "data", "bin")]
        for each in self.folders:
            each.mkdir()
        moved = {"/etc/redis/": f"{etc}/", "/run/redis/": f"{run}/", "dir /data": f"dir {data}"}
        moved |= {"6379": str(self.port), "bind * -::*": "bind 127.0.0.1"}
        moved |= {"+client|setinfo ": ""}  # which older servers do not know
        for name, text in render({"redis": values}).config("demo-redis").items():
            for old, new in moved.items():
                text = text.replace(old, new)  # noqa: PLW2901
            (etc / name).write_text(text)
        (programs / "redis-server").symlink_to(self.server.binary)
        self._script, self._path = etc / "start.sh", f"{programs}:{os.environ['PATH']}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Run the script, and return when the server is ready, and not only loading its file."""
        self._process = subprocess.Popen(
            ["sh", self._script],  # noqa: S607
            env={"PATH": self._path, "REDISCLI_AUTH": PASSWORD},
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda: self.ask("PING", login=True) == "PONG", "the chart's Redis to be ready")
        return self

    def close(self) -> None:
        """End it in order."""
        if self._process:
            self._process.terminate()
            self._process.wait(10)
        self.server.close()

    def ask(self, *words: str, login: bool = False) -> str:
        """Send a command, after logging in if that is said, and return the answer or the refusal."""
        try:
            with contextlib.closing(Connection(self.port, timeout=5)) as connection:
                if login:
                    connection.ask("AUTH", "commontrip", PASSWORD)
                return str(connection.ask(*words))
        except (ReplyError, OSError) as error:
            return str(error)


def test_the_start_script_makes_the_user_and_no_other(tmp_path: Path) -> None:
    """Any character may stand in the password; without it nobody is let in; the password stands in no file."""
    with ChartsRedis(tmp_path, {}) as redis:
        for words in (("AUTH", "default", ""), ("AUTH", ""), ("AUTH", "commontrip", "other")):
            assert "WRONGPASS" in redis.ask(*words)
        assert "NOAUTH" in redis.ask("GET", "cb:auth:state")
        run, etc, *_ = redis.folders
        written = [file for folder in (run, etc) for file in folder.iterdir()]
        assert len(written) == 6
        assert not any(PASSWORD in file.read_text() for file in written)


def test_what_a_script_wrote_outlives_the_server(tmp_path: Path) -> None:
    """With persistence on: several writes of one script too, which Redis 8 reads again as the default user."""
    redis = ChartsRedis(tmp_path, {"persistence": {"enabled": True}})
    with redis:
        script = "redis.call('SET', KEYS[1], '1') return redis.call('SET', KEYS[2], '2')"
        assert redis.ask("EVAL", script, "2", "cb:a", "cb:b", login=True) == "OK"
    with redis:
        assert redis.ask("MGET", "cb:a", "cb:b", login=True) == "['1', '2']"
    default, _ = render().config("demo-redis")["users.acl"].splitlines()
    assert default == "user default off sanitize-payload ~* &* +@all"
