"""`doctor`: what is wrong with Redis is found, named, and comes with what to do."""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest

from commontrip.cli import _doctor
from commontrip.cli._doctor import Check
from tests.cli.commands import Commands, closed, everything, forced, opened
from tests.cli.hostile import HOSTILE, is_harmless
from tests.support.sentinel import SentinelPair
from tests.support.servers import Server, free_port


def found(report: Any, name: str) -> list[tuple[str, str]]:
    """Return status and words of one check."""
    return [(check["status"], check["says"]) for check in report["checks"] if check["name"] == name]


def advice(report: Any, name: str) -> str:
    """Return what one check says to do."""
    return " ".join(check["advice"] for check in report["checks"] if check["name"] == name)


@pytest.fixture
def user(server: Server, prefix: str) -> Iterator[Callable[[str], str]]:
    """Make a user with some rights, rules split by blanks; return its address."""
    word = secrets.token_hex(8)

    def made(rules: str) -> str:
        server.cli("ACL", "SETUSER", prefix, "reset", "on", f">{word}", *rules.split())
        return f"redis://{prefix}:{word}@127.0.0.1:{server.port}"

    yield made
    server.cli("ACL", "DELUSER", prefix)


def test_a_good_redis_is_exit_code_0(commontrip: Commands, server: Server) -> None:
    """All is well: every check says so, in words and in JSON."""
    commontrip.given(closed)
    commontrip.given(opened, "billing")
    commontrip.given(forced, "search")
    done = commontrip("doctor")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"Redis at {server.url}, prefix {commontrip.prefix}"
    assert {line.split()[0] for line in lines[1:]} == {"ok"}
    report = commontrip.json("doctor")
    assert (report["worst"], report["prefix"]) == ("ok", commontrip.prefix)
    assert found(report, "server") == [("ok", server.version.lower())]
    assert found(report, "breakers") == [
        ("ok", "3 found: 1 CLOSED, 1 FORCED_OPEN, 1 OPEN"),
        ("ok", "2 replicas alive"),
    ]
    assert "maxmemory-policy noeviction, maxmemory no limit" in found(report, "memory")[0][1]


def test_an_empty_redis_is_well(commontrip: Commands, server: Server) -> None:
    """Where nothing has begun yet nothing is wrong, and the doctor leaves nothing behind."""
    report = commontrip.json("doctor")
    assert found(report, "breakers") == [("ok", "0 found"), ("ok", "0 replicas alive")]
    assert everything(server, commontrip.prefix) == {}


def test_eviction_is_a_warning(fresh_server: Callable[..., Server], prefix: str) -> None:
    """A server that may evict a breaker's keys is a warning, a full one another; both say what to do."""
    server = fresh_server("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    commontrip = Commands(server.url, prefix)
    report = commontrip.json("doctor", code=1)
    [(status, says)] = found(report, "memory")
    assert (status, says.partition(" MiB,")[0]) == ("warn", "maxmemory-policy allkeys-lru, maxmemory 100")
    assert "CONFIG SET maxmemory-policy noeviction" in advice(report, "memory")
    said = commontrip("doctor").stdout
    assert "\nwarn memory " in said
    assert "-> evicting a breaker's keys closes its circuit" in said
    server.config("maxmemory", 1000)
    assert [status for status, _ in found(commontrip.json("doctor", code=1), "memory")] == ["warn", "warn"]
    server.config("maxmemory-policy", "noeviction")
    assert found(commontrip.json("doctor", code=2), "memory")[1] == ("fail", "it is full and refuses writes")


def test_a_replica_server_is_a_fault(sentinel: SentinelPair, prefix: str) -> None:
    """An address that takes no writes is a fault."""
    report = Commands(sentinel.replica.url, prefix).json("doctor", code=2)
    assert found(report, "role") == [("fail", "it is a replica, which takes no writes")]


def test_persistence_is_told(fresh_server: Callable[..., Server], prefix: str) -> None:
    """With AOF on, that is said."""
    server = fresh_server("--appendonly", "yes")
    commontrip = Commands(server.url, prefix)
    assert found(commontrip.json("doctor"), "persistence") == [("ok", "AOF is on")]


def test_missing_rights_are_named(commontrip: Commands, user: Callable[[str], str]) -> None:
    """Every command that a replica needs and this user may not run is named, with the rule that allows it."""
    commontrip.given(closed)
    url = user("~* &* +@all -xadd -publish")
    report = commontrip.json("doctor", code=2, REDIS_URL=url)
    assert found(report, "rights") == [("fail", "this user may not run XADD PUBLISH on our keys")]
    assert advice(report, "rights").endswith("+xadd +publish")


@pytest.mark.parametrize("command", ["DEL", "HSET", "SET", "ZADD", "PEXPIRE", "HMGET", "XREVRANGE", "ZRANGE", "TYPE"])
def test_every_right_is_looked_at(
    commontrip: Commands, server: Server, user: Callable[[str], str], command: str
) -> None:
    """Each command alone is found missing, and looking leaves no key behind."""
    report = commontrip.json("doctor", code=2, REDIS_URL=user(f"~* &* +@all -{command.lower()}"))
    assert command in found(report, "rights")[0][1]
    assert everything(server, commontrip.prefix) == {}


def test_the_scripts_run_nothing_else() -> None:
    """The doctor knows every command that a script runs: a new one has to be added to `rights.lua`."""
    folder = resources.files("commontrip") / "lua"
    texts = {file.name: file.read_text() for file in folder.iterdir() if file.name.endswith(".lua")}
    known = set(re.findall(r"\{'([A-Z]+)'", texts.pop("rights.lua")))
    used = {word for text in texts.values() for word in re.findall(r"redis\.p?call\('([A-Z]+)'|\{'(X[A-Z]+)'", text)}
    assert {first or second for first, second in used} <= known


def test_rights_to_other_keys_are_none(commontrip: Commands, user: Callable[[str], str]) -> None:
    """A user of another installation is told so."""
    report = commontrip.json("doctor", code=2, REDIS_URL=user("~other:* &* +@all"))
    [(status, says)] = found(report, "rights")
    assert (status, "key" in says) == ("fail", True)


def test_a_user_without_any_right(commontrip: Commands, user: Callable[[str], str]) -> None:
    """Who may do nothing learns that at the first check, and is asked nothing more."""
    report = commontrip.json("doctor", code=2, REDIS_URL=user("-@all"))
    [check] = report["checks"]
    assert (check["name"], check["status"], check["advice"]) == (
        "reachable",
        "fail",
        "give this user the right, or examine as another",
    )


SERVICE = (
    "+ping +select +time +evalsha +eval +script|load +subscribe +unsubscribe +publish +get +mget +set +del +type +pttl"
    " +ttl +pexpire +hset +hmget +hgetall +zadd +zrem +zcard +zrange +zscore +hlen +zremrangebyscore +xadd +xrevrange"
)
"""What a service's own user may do."""


def test_the_services_user_is_enough(commontrip: Commands, user: Callable[[str], str]) -> None:
    """With a service's own rights a breaker is shown and ordered; what the doctor may not see is a warning."""
    url = user(f"~{commontrip.prefix}:* resetchannels &{commontrip.prefix}:* {SERVICE}")
    commontrip.given(closed)
    assert commontrip("show", "auth", REDIS_URL=url).exit_code == 0
    assert commontrip("history", "auth", REDIS_URL=url).exit_code == 0
    assert commontrip("override", "auth", "disabled", "--reason", "x", REDIS_URL=url).exit_code == 0
    report = commontrip.json("doctor", code=1, REDIS_URL=url)
    assert found(report, "rights") == [("ok", "this user may run all that a replica runs")]
    assert {found(report, name)[0][0] for name in ("server", "role", "memory", "keys", "breakers")} == {"warn"}


def test_a_channel_that_is_closed_is_a_fault(
    commontrip: Commands, user: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot subscribe learns late: a fault, with the rule that allows it."""
    monkeypatch.setattr(_doctor, "PATIENCE", 1.0)
    report = commontrip.json("doctor", code=2, REDIS_URL=user("~* resetchannels +@all"))
    assert found(report, "scripts")[1][0] == "fail"
    assert f"&{commontrip.prefix}:events" in advice(report, "scripts")


def test_keys_without_an_end_are_a_warning(commontrip: Commands, server: Server) -> None:
    """Keys that nobody will ever forget are counted and named, a few of them."""
    commontrip.given(closed)
    for number in range(4):
        server.cli("SET", f"{commontrip.prefix}:stray{number}:state", "OPEN")
    report = commontrip.json("doctor", code=1)
    names = ", ".join(f"{commontrip.prefix}:stray{number}:state" for number in range(3))
    [(status, says)] = found(report, "keys")
    assert status == "warn"
    assert says.endswith(f"4 have no TTL: {names}, …")


def test_a_hostile_key_is_shown_as_text(commontrip: Commands, server: Server) -> None:
    """A key's name cannot do anything to the terminal, and is no breaker."""
    server.cli("SET", f"{commontrip.prefix}:{HOSTILE}:v1:epoch".encode(), "x")
    done = commontrip("doctor")
    assert (done.exit_code, is_harmless(done.stdout)) == (1, True)
    assert "0 found" in done.stdout


def test_many_keys_are_looked_at_in_part(commontrip: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a large Redis the doctor looks at a part of the keys, and says so."""
    commontrip.given(closed)
    monkeypatch.setattr(_doctor, "_MOST_KEYS", 2)
    assert found(commontrip.json("doctor"), "keys") == [("ok", "of 2 keys, the first that were found, each has a TTL")]


def test_garbage_is_a_warning(commontrip: Commands, server: Server) -> None:
    """A breaker whose record cannot be read is named."""
    server.cli("SET", f"{commontrip.prefix}:auth:v1:epoch", "garbage", "EX", 60)
    report = commontrip.json("doctor", code=1)
    assert found(report, "breakers")[:2] == [("ok", "1 found"), ("warn", "garbage in the epoch of auth")]


def test_an_absent_redis_is_exit_code_2(commontrip: Commands) -> None:
    """Nobody at the address: one check, and what to do."""
    report = commontrip.json("doctor", code=2, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    [check] = report["checks"]
    assert (check["name"], check["advice"]) == ("reachable", "start Redis, or give another address")


def test_a_frozen_redis_is_exit_code_2(
    fresh_server: Callable[..., Server], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that hangs ends the examination within one check's patience."""
    monkeypatch.setattr(_doctor, "PATIENCE", 0.3)
    server = fresh_server()
    server.freeze()
    began = time.monotonic()
    [check] = Commands(server.url, prefix).json("doctor", code=2)["checks"]
    assert (check["name"], check["says"]) == ("reachable", "no answer for 0.3 s")
    assert time.monotonic() - began < 3


async def examine(check: str, **answers: Any) -> list[Check]:
    """Make one check with a server that answers so: what no real one at hand does."""

    class Said:
        async def command(self, *words: str) -> dict[str, Any]:
            return {"": answers[words[0]]}

    return [Check(check, *one) async for one in _doctor._CHECKS[check](Said())]  # type: ignore[arg-type]


async def test_an_old_server_is_a_fault() -> None:
    """Before 6.2 it cannot work."""
    [check] = await examine("server", INFO={"redis_version": "6.0.16"})
    assert (check.status, check.advice) == ("fail", "commontrip needs 6.2 or newer")


async def test_clocks_that_are_apart_are_a_warning() -> None:
    """Breakers do not mind, logs do."""
    [check] = await examine("clock", TIME=(int(time.time()) + 3600, 0))
    assert (check.status, "ahead of this machine's" in check.says) == ("warn", True)
    [check] = await examine("clock", TIME=(int(time.time()) - 3600, 0))
    assert (check.status, "behind this machine's" in check.says) == ("warn", True)


async def test_a_save_that_failed_is_a_warning() -> None:
    """Redis may refuse writes until a save works."""
    info = {"rdb_last_bgsave_status": "err", "aof_enabled": 0}
    assert [check.status for check in await examine("persistence", INFO=info)] == ["warn", "ok"]


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("server", "redis not told"),
        ("role", "not told"),
        ("memory", "maxmemory-policy not told, maxmemory not told, 0.0 MiB used"),
        ("persistence", "AOF: not told"),
    ],
)
async def test_what_a_server_keeps_to_itself_is_a_warning(check: str, says: str) -> None:
    """A managed server may tell less than others: that is said, and the other checks go on."""
    assert [(found.status, found.says) for found in await examine(check, INFO={})] == [("warn", says)]


def test_a_slow_redis_is_a_warning(commontrip: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a fifth of the store budget for one answer is too much."""
    monkeypatch.setattr(_doctor, "_SLOW", 0.0)
    report = commontrip.json("doctor", code=1)
    assert "50 ms" in advice(report, "latency")
