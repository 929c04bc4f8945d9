"""`show` and `history`: the truth, for people and for programs, and nothing touched."""

import pytest

from tests.breaker.caller import Caller, run
from tests.cli.commands import Commands, Situation, closed, everything, forced, opened, probing
from tests.cli.hostile import HOSTILE, is_harmless
from tests.support.servers import Server


@pytest.mark.parametrize(
    ("situation", "state", "code"), [(closed, "CLOSED", 0), (opened, "OPEN", 3), (probing, "HALF_OPEN", 4)]
)
def test_the_exit_code_is_the_state_on_request(
    commontrip: Commands, situation: Situation, state: str, code: int
) -> None:
    """With --exit-code a script learns the state, without it that the command worked."""
    commontrip.given(situation)
    assert commontrip("show", "auth").exit_code == 0
    assert commontrip.json("show", "auth", "--exit-code", code=code)["state"] == state


def test_show_as_json(commontrip: Commands, server: Server) -> None:
    """A program gets what the fleet counts in its own window, who is in it, and what made the state."""
    commontrip.given(closed)
    found = commontrip.json("show", "auth")
    assert found["counts"] == {"calls": 3, "failures": 2, "slow": 0, "streak": 2, "run": 0}
    assert (found["window"], found["override"], found["remaining"]) == (60.0, None, 0.0)
    assert found["replicas"] == {"r1": 0.0, "r2": None}
    assert found["transition"]["reason"] == "seed"
    assert str(server.cli("GET", f"{commontrip.prefix}:auth:v1:epoch")).startswith(found["epoch"])
    assert "3 in the last 1m00s: 2 failed, 0 slow" in commontrip("show", "auth").stdout


def test_show_an_open_circuit(commontrip: Commands) -> None:
    """People read why it opened, on what facts, and how long it stays so."""
    commontrip.given(opened)
    said = commontrip("show", "auth").stdout
    assert said.startswith("auth: OPEN\n")
    assert "CLOSED -> OPEN (tripped) by r1, 5 of 8 calls failed, last ValueError, cooldown 1h00m" in said
    assert "left: 59m" in said
    assert "2 alive, 1 heard of this epoch" in said
    assert "r1: after 0 ms" in said
    assert "r2: came later, or did not hear" in said
    assert commontrip.json("show", "auth")["remaining"] == pytest.approx(3600, abs=60)


def test_a_large_fleet_is_short(commontrip: Commands) -> None:
    """Of many replicas the latest are named, first those who have not learned."""

    async def many(caller: Caller) -> None:
        await opened(caller)
        for number in range(30):
            await caller.store.presence(f"m{number:02}", 60.0)
            await caller.store.learned("auth", await caller.epoch(), f"m{number:02}", number / 1000)

    commontrip.given(many)
    said = commontrip("show", "auth").stdout.splitlines()
    at = said.index("  replicas   32 alive, 31 heard of this epoch")
    assert [line.strip() for line in said[at + 1 : at + 4]] == [
        "r2: came later, or did not hear",
        "m29: after 29 ms",
        "m28: after 28 ms",
    ]
    assert said[at + 21].strip() == "and 12 more"


def test_show_a_cooldown_that_is_over(commontrip: Commands) -> None:
    """An OPEN circuit that waits for a call says so."""

    async def due(caller: Caller) -> None:
        await caller.seed()
        made = await caller.open(0.01)
        await caller.past(made.now + 0.01)

    commontrip.given(due)
    assert "left: over, the next call is a probe" in commontrip("show", "auth").stdout
    assert commontrip.json("show", "auth")["remaining"] == 0


def test_show_an_order(commontrip: Commands) -> None:
    """An operator's order shows as such, with its author, reason and time left."""
    commontrip.given(forced)
    said = commontrip("show", "auth").stdout
    assert said.startswith("auth: FORCED_OPEN\n")
    assert "FORCED_OPEN for 59m" in said
    assert '"ann: drill"' in said
    found = commontrip.json("show", "auth")
    assert (found["state"], found["override"], found["note"]) == ("OPEN", "FORCED_OPEN", "ann: drill")


def test_show_what_is_done_by_hand(commontrip: Commands, server: Server) -> None:
    """A state SET by hand is told and left for the replicas to obey, as is a Retry-After of the dependency."""

    async def told_to_wait(caller: Caller) -> None:
        await caller.seed()
        await caller.record(run("f", retry_after=3600.0))

    commontrip.given(told_to_wait)
    server.cli("SET", f"{commontrip.prefix}:auth:state", "OPEN")
    said = commontrip("show", "auth").stdout
    assert "wants to be left alone for 59m" in said
    assert "somebody SET OPEN" in said
    assert commontrip.json("show", "auth")["by_hand"] == "OPEN"


def test_probes_in_flight_are_counted(commontrip: Commands) -> None:
    """A probe that runs is seen, of the round that there is."""
    commontrip.given(probing)
    assert "1 in flight" in commontrip("show", "auth").stdout


def test_a_clock_gone_back_makes_nothing_last_longer(commontrip: Commands, server: Server) -> None:
    """After a failover to a slower clock, what is left of a cooldown is at most the cooldown."""
    commontrip.given(opened)
    key = f"{commontrip.prefix}:auth:v1:epoch"
    words = str(server.cli("GET", key)).split()
    words[2:4] = [str(int(word) + 9 * 3_600_000) for word in words[2:4]]
    server.cli("SET", key, " ".join(words))
    found = commontrip.json("show", "auth")
    assert 0 < found["remaining"] <= 3600


@pytest.mark.parametrize("command", ["show", "history", "override"])
def test_an_unknown_breaker_is_named_and_not_made(commontrip: Commands, server: Server, command: str) -> None:
    """Whoever asks for a breaker that is not there gets exit code 5 and one line, and leaves no key behind."""
    words = ("disabled", "--reason", "why") if command == "override" else ()
    done = commontrip(command, "auth", *words)
    assert done.exit_code == 5
    assert done.stderr == f"commontrip: there is no breaker 'auth' under the prefix '{commontrip.prefix}'\n"
    assert everything(server, commontrip.prefix) == {}


def test_looking_writes_nothing(commontrip: Commands, server: Server) -> None:
    """Whoever only looks changes no key and is no replica, also where a replica would repair what it finds."""
    commontrip.given(opened)
    for part, garbage in (("state", "CLOSED"), ("cooldown", "x"), ("v1:window", "x"), ("v1:probes", "x")):
        server.cli("SET", f"{commontrip.prefix}:auth:{part}", garbage)
    server.cli("DEL", f"{commontrip.prefix}:auth:v1:learned")
    server.cli("LPUSH", f"{commontrip.prefix}:auth:v1:learned", "garbage")
    before = everything(server, commontrip.prefix)
    found = commontrip.json("show", "auth")
    commontrip.json("history", "auth")
    commontrip.json("doctor", code=1)
    assert everything(server, commontrip.prefix) == before
    assert found["replicas"] == {"r1": None, "r2": None}


def test_history(commontrip: Commands) -> None:
    """The last transitions, the newest first, as many as wanted, each with its note."""
    commontrip.given(forced)
    said = commontrip("history", "auth").stdout.splitlines()
    assert ["CLOSED -> OPEN (override)" in said[0], '"ann: drill"' in said[0]] == [True, True]
    assert "new -> CLOSED (seed)" in said[1]
    [last] = commontrip.json("history", "auth", "--limit", "1")
    assert (last["state"], last["previous_state"], last["note"]) == ("OPEN", "CLOSED", "ann: drill")
    assert last["epoch"] == commontrip.json("show", "auth")["epoch"]


def test_a_history_that_was_deleted_is_empty(commontrip: Commands, server: Server) -> None:
    """A breaker without a past is a breaker: nothing to list is no error."""
    commontrip.given(closed)
    server.cli("DEL", f"{commontrip.prefix}:auth:transitions")
    assert commontrip.json("history", "auth") == []
    done = commontrip("history", "auth")
    assert (done.exit_code, done.stdout) == (0, "")


@pytest.mark.parametrize("command", ["show", "history"])
def test_hostile_text_is_shown_as_text(commontrip: Commands, server: Server, command: str) -> None:
    """A note, a replica or a reason cannot move the cursor, break a line, turn the writing or be taken for markup."""
    commontrip.given(lambda caller: forced(caller, note=HOSTILE))
    lines = len(commontrip(command, "auth").stdout.splitlines())
    key = f"{commontrip.prefix}:auth:v1:epoch"
    record = str(server.cli("GET", key)).split()
    record[9] = "".join(letter for letter in HOSTILE if letter not in " \n\r\t")  # which would part the record
    server.cli("SET", key, " ".join(record).encode())
    server.cli("ZADD", f"{commontrip.prefix}:replicas", "9e15", HOSTILE.encode())
    done = commontrip(command, "auth")
    assert done.exit_code == 0
    assert is_harmless(done.stdout)
    assert "[red]markup[/red]" in done.stdout
    assert r"\x1b[31m" in done.stdout
    assert len(done.stdout.splitlines()) <= lines + 1
    assert is_harmless(commontrip(command, "auth", "--json").stdout)


def test_times_that_no_calendar_has(commontrip: Commands, server: Server) -> None:
    """A record with a time far off is shown, not raised."""
    commontrip.given(closed)
    key = f"{commontrip.prefix}:auth:v1:epoch"
    record = str(server.cli("GET", key)).split()
    record[2] = str(8 * 10**14)
    server.cli("SET", key, " ".join(record))
    assert "since      800000000000," in commontrip("show", "auth").stdout
