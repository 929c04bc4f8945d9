"""`override`: exactly the library's, from somebody who is no replica."""

import asyncio
import getpass
import os
from collections.abc import Callable
from typing import Any

import pytest

from commontrip import Breakers, Override, State
from commontrip.cli import _order
from commontrip.cli._door import Door
from commontrip.cli._facts import Facts
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller
from tests.cli.commands import Commands, closed, forced, opened
from tests.cli.hostile import HOSTILE, is_harmless
from tests.support.servers import Server
from tests.support.waiting import PATIENCE

VOLATILE = {"epoch", "since", "until", "override_until", "replica", "previous", "previous_since"}


def library(url: str, prefix: str, order: Override | None) -> None:
    """Give the same order as a replica."""

    async def give() -> None:
        async with Breakers(RedisStore.from_url(url, prefix=prefix), store_budget=PATIENCE) as breakers:
            await breakers.get("auth").override(order, author="ann", reason="drill", seconds=600)

    asyncio.run(give())


def outcome(commontrip: Commands, server: Server) -> list[Any]:
    """Return what an order leaves: the records without their times and ids, the readable keys, the TTLs."""
    past = commontrip.json("history", "auth")
    facts = [{name: value for name, value in made.items() if name not in VOLATILE} for made in past]
    lasting = [round(made["override_until"] - made["since"]) for made in past if made["override"]]
    readable = [server.cli("GET", f"{commontrip.prefix}:auth:{part}") for part in ("state", "cooldown", "failures")]
    note = server.cli("GET", f"{commontrip.prefix}:auth:v1:override")
    left = server.cli("TTL", f"{commontrip.prefix}:auth:v1:epoch")
    return [facts, lasting, readable, note, round(int(str(left)), -1)]


@pytest.mark.parametrize("order", ["forced-open", "disabled", "observe", "auto"])
@pytest.mark.parametrize("situation", [closed, opened, forced])
def test_an_order_is_the_librarys(server: Server, prefix: str, situation: Any, order: str) -> None:
    """From any state, every order leaves in Redis what `Breaker.override` would."""
    ours, theirs = Commands(server.url, f"{prefix}-a"), Commands(server.url, f"{prefix}-b")
    for one in (ours, theirs):
        one.given(situation)
    wanted = None if order == "auto" else Override[order.upper().replace("-", "_")]
    library(theirs.url, theirs.prefix, wanted)
    assert ours("override", "auth", order, "--reason", "drill", "--author", "ann", "--for", "10m").exit_code == 0
    assert outcome(ours, server) == outcome(theirs, server)


def test_what_was_done_is_said(commontrip: Commands) -> None:
    """The answer is the order, its length, what it replaces, and how the breaker stands now."""
    commontrip.given(forced)
    said = commontrip("override", "auth", "observe", "--reason", "look at it", "--author", "bob", "--for", "2h").stdout
    first, second, *_ = said.splitlines()
    assert first.startswith("auth: ordered OBSERVE for 2h00m; this replaces FORCED_OPEN, which had 59m")
    assert first.endswith('"ann: drill"')
    assert second == "auth: OBSERVE"
    assert '"bob: look at it"' in said
    back = commontrip("override", "auth", "auto", "--reason", "done").stdout
    assert back.startswith("auth: back to automatic; this replaces OBSERVE")


def test_an_order_as_json(commontrip: Commands) -> None:
    """A program gets the breaker after the order, the epoch that the order made, and the breaker before it."""
    commontrip.given(closed)
    done = commontrip.json("override", "auth", "forced-open", "--reason", "drill", "--for", "90")
    assert (done["state"], done["override"], done["overtaken"]) == ("OPEN", "FORCED_OPEN", False)
    assert done["override_remaining"] == pytest.approx(90, abs=30)
    assert done["epoch"] == done["ordered"]
    assert (done["before"]["state"], done["before"]["override"]) == ("CLOSED", None)
    assert done["replicas"] == {"r1": None, "r2": None}


def test_whoever_orders_is_no_replica(commontrip: Commands, server: Server) -> None:
    """An order leaves nobody behind in the fleet, and is in the history under the command line's name."""
    commontrip.given(closed)
    fleet = server.cli("ZRANGE", f"{commontrip.prefix}:replicas", 0, -1, "WITHSCORES")
    done = commontrip.json("override", "auth", "disabled", "--reason", "drill")
    assert server.cli("ZRANGE", f"{commontrip.prefix}:replicas", 0, -1, "WITHSCORES") == fleet
    assert done["transition"]["replica"].startswith("commontrip-cli-")


def test_the_services_settings_hold(commontrip: Commands, server: Server) -> None:
    """What services remember longer than usual, an order makes no shorter: neither the keys nor the history."""

    async def long_remembered(given: Caller) -> None:
        store = RedisStore.from_url(commontrip.url, prefix=commontrip.prefix, ttl=86_400.0, history=1000)
        caller = Caller(store, given.name)
        await caller.seed()
        for _number in range(150):
            await caller.open(30.0)
            await caller.change(State.CLOSED)
        await store.aclose()

    commontrip.given(long_remembered)
    assert commontrip("override", "auth", "disabled", "--reason", "drill", "--for", "10m").exit_code == 0
    assert server.cli("XLEN", f"{commontrip.prefix}:auth:transitions") == 302
    assert int(str(server.cli("TTL", f"{commontrip.prefix}:auth:v1:epoch"))) > 80_000


def test_the_author_is_the_user(commontrip: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --author it is who is logged in; who has no name is known by number."""
    commontrip.given(closed)
    done = commontrip.json("override", "auth", "disabled", "--reason", "drill")
    assert done["note"] == f"{getpass.getuser()}: drill"

    def nameless() -> str:
        raise OSError("no username")

    monkeypatch.setattr(getpass, "getuser", nameless)
    done = commontrip.json("override", "auth", "disabled", "--reason", "drill")
    assert done["note"] == f"uid {os.getuid()}: drill"


def test_hostile_words_are_shown_as_text(commontrip: Commands) -> None:
    """An author or a reason that the terminal would obey is said back as text."""
    commontrip.given(closed)
    bad = HOSTILE.replace("\0", "")
    for _ in range(2):  # the second time as the order that is replaced
        done = commontrip("override", "auth", "observe", "--reason", bad, "--author", bad)
        assert done.exit_code == 0
        assert is_harmless(done.stdout)


def test_an_order_that_is_overtaken_says_so(commontrip: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody changes the state right after the order, exit code 6 and a line tell it."""
    commontrip.given(closed)
    give = _order.give

    async def give_and_lose(door: Any, facts: Facts, *args: Any, **details: Any) -> Any:
        given = await give(door, facts, *args, **details)
        await Caller(door, facts.name).open(30.0)
        return given

    monkeypatch.setattr(_order, "give", give_and_lose)
    words = ("override", "auth", "disabled", "--reason", "drill")
    done = commontrip(*words)
    assert done.exit_code == 6
    assert done.stderr == "commontrip: the order was given, and somebody has changed the state since\n"
    assert commontrip.json(*words, code=6)["overtaken"]


def test_an_order_without_an_answer_is_not_called_done(
    fresh_server: Callable[..., Server], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis goes silent in the middle, the operator is told to look."""
    server = fresh_server()
    commontrip = Commands(server.url, prefix)
    commontrip.given(closed)
    prepare = Door.follow_suit

    async def prepare_and_freeze(door: Door, facts: Facts) -> None:
        await prepare(door, facts)
        server.freeze()

    monkeypatch.setattr(Door, "follow_suit", prepare_and_freeze)
    done = commontrip("override", "auth", "disabled", "--reason", "drill")
    assert done.exit_code == 1
    assert done.stderr == "commontrip: Redis gave no answer: look with `commontrip show auth` whether it was done\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["auth", "open", "--reason", "x"], "open"),
        (["auth", "observe"], "--reason"),
        (["auth", "observe", "--reason", " "], "--reason must be a text of 1 to 500 characters"),
        (["auth", "observe", "--reason", "x", "--author", " "], "--author must be a text of 1 to 500 characters"),
        (["auth", "observe", "--reason", "x", "--for", "0.5s"], "--for must be a number at least 1 and at most 604800"),
        (["auth", "observe", "--reason", "x", "--for", "8d"], "--for must be a number at least 1 and at most 604800"),
        (["auth", "observe", "--reason", "x", "--for", "soon"], "a duration is a number and one of s, m, h, d"),
        (["a:b", "observe", "--reason", "x"], "NAME must be 1 to 200 of A-Z a-z 0-9 . _ -"),
    ],
)
def test_wrong_words_are_refused(commontrip: Commands, words: list[str], problem: str) -> None:
    """A wrong order is refused with exit code 2 before Redis is asked."""
    commontrip.environment["REDIS_URL"] = "redis://127.0.0.1:1"
    done = commontrip("override", *words)
    assert done.exit_code == 2
    assert problem in done.stderr
