"""What only Redis can suffer: hands on its keys, garbage, clocks that go back, missing rights, lost scripts."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import resources

import pytest
from redis.asyncio import Redis

from commontrip import Counts, Override, State, StoreUnavailableError
from commontrip._counts import Run
from commontrip._errors import StoreSilentError
from commontrip._transition import Epoch, parse
from commontrip.redis import RedisStore
from tests.breaker.caller import GRID, Caller, Ears, epoch, mint, record, run
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

Connect = Callable[[str], RedisStore]
HOUR = 3600.0
READABLE = ("state", "failures", "lastFailure", "cooldown", "transitions")
WORKING = ("v1:epoch", "v1:window", "v1:probes", "v1:override", "v1:learned", "v1:seen:r1")
SITUATIONS = ("CLOSED", "OPEN", "HALF_OPEN", "FORCED_OPEN")
TYPES = {"transitions": "stream", "v1:learned": "hash"}


class Keys:
    """The keys of the breaker `auth`, by hand."""

    def __init__(self, server: Server, prefix: str) -> None:
        """Use the keys under `prefix`."""
        self.server = server
        self.prefix = prefix

    def __call__(self, part: str) -> str:
        """Return a key's name."""
        return f"{self.prefix}:auth:{part}"

    def ask(self, command: str, part: str, *words: str | bytes | float) -> str:
        """Run a command on one key."""
        return str(self.server.cli(command, self(part), *words))

    def spoil(self, part: str, how: str) -> None:
        """Delete a key, or put garbage or another type into it."""
        self.ask("DEL", part)
        if how == "garbage":
            self.ask("SET", part, b"garbage \xff\x00")
        elif how == "type":
            self.ask("LPUSH", part, "garbage")

    def all(self) -> list[str]:
        """Return all keys of the prefix."""
        found = self.server.cli("KEYS", f"{self.prefix}:*")
        return [str(key) for key in found] if isinstance(found, list) else []

    def shift(self, seconds: float) -> None:
        """Move every time in the record and the leases: as if the clock had gone the other way."""
        self.server.cli("EVAL", _SHIFT, 3, self("v1:epoch"), self("v1:window"), self("v1:probes"), seconds * 1000)


_SHIFT = """
local function later(value) return value > 1e12 and value + ARGV[1] or value end
local epoch = redis.call('GET', KEYS[1])
if epoch then
  local words = {}
  for word in epoch:gmatch('%S+') do
    local time = word:match('^%d+$') and tonumber(word)
    words[#words + 1] = time and string.format('%.0f', later(time)) or word
  end
  redis.call('SET', KEYS[1], table.concat(words, ' '), 'KEEPTTL')
end
for i = 2, 3 do
  local packed = redis.call('GET', KEYS[i])
  if packed then
    local list = cmsgpack.unpack(packed)
    for n, value in ipairs(list) do list[n] = type(value) == 'number' and later(value) or value end
    redis.call('SET', KEYS[i], cmsgpack.pack(list), 'KEEPTTL')
  end
end
"""


@pytest.fixture
async def connect(prefix: str) -> AsyncIterator[Callable[..., RedisStore]]:
    """Make stores by their address; they are closed in the end."""
    made: list[RedisStore] = []

    def store(url: str) -> RedisStore:
        made.append(RedisStore.from_url(url, prefix=prefix))
        return made[-1]

    yield store
    for one in made:
        await one.aclose()


@pytest.fixture
def store(server: Server, connect: Connect) -> RedisStore:
    """A store on the shared server that does not listen."""
    return connect(server.url)


@pytest.fixture
def caller(store: RedisStore) -> Caller:
    """A replica that uses the breaker `auth`."""
    return Caller(store)


@pytest.fixture
def keys(server: Server, prefix: str) -> Keys:
    """The breaker's keys."""
    return Keys(server, prefix)


async def furnish(caller: Caller, situation: str, *, cooldown: float = 30.0) -> str:
    """Bring the breaker into a state, with something in every key that the state has; return its epoch."""
    await caller.seed()
    await caller.store.presence(caller.replica, 30.0)
    await caller.record("fsf")
    if situation == "OPEN":
        await caller.open(cooldown, failures=7)
    elif situation == "HALF_OPEN":
        await caller.half_open("held")
    elif situation == "FORCED_OPEN":
        order = {"override": Override.FORCED_OPEN, "override_for": cooldown, "note": "ann: why not"}
        await caller.open(cooldown, **order)
    at = await caller.epoch()
    await caller.store.learned(caller.name, at, caller.replica, 0.01)
    return at


async def use(caller: Caller) -> None:
    """Ask for everything that changes no state."""
    await caller.store.look([caller.name])
    await caller.store.history(caller.name, 10)
    await caller.store.fleet(caller.name)
    await caller.record("f")
    await caller.lease("brief", seconds=0.1)
    await caller.settle("brief", "n")
    await caller.read()
    await caller.store.learned(caller.name, await caller.epoch(), caller.replica, 0.02)
    await caller.store.presence(caller.replica, 30.0)


# -- garbage


@pytest.mark.parametrize("how", ["gone", "garbage", "type"])
@pytest.mark.parametrize("part", READABLE + WORKING)
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_spoilt_key_stops_nothing(caller: Caller, keys: Keys, situation: str, part: str, how: str) -> None:
    """A key that is lost or holds garbage raises nothing, loses no transition, and is put right (race 15)."""
    at = await furnish(caller, situation)
    keys.spoil(part, how)
    await use(caller)
    found = await caller.read(seed=True)
    if part != "v1:epoch":
        assert epoch(found) == at
    made = await caller.change(State.CLOSED, expected=epoch(found))
    await use(caller)
    assert made.status == "won"
    assert (await caller.store.history("auth", 1))[0][0] == made.transition
    assert keys.ask("GET", "state") == "CLOSED"
    assert keys.ask("TYPE", part) in {"none", TYPES.get(part, "string")}


@pytest.mark.parametrize("how", ["garbage", "type"])
async def test_a_spoilt_presence_stops_nothing(store: RedisStore, keys: Keys, how: str) -> None:
    """The fleet's key may hold anything: it is written anew by whoever comes next (race 15)."""
    fleet = f"{keys.prefix}:replicas"
    keys.server.cli("SET" if how == "garbage" else "LPUSH", fleet, "garbage")
    assert await store.fleet("auth") == {}
    assert await store.presence("r1", 30.0) == 1
    assert await store.fleet("auth") == {"r1": None}


@pytest.mark.parametrize("lag", ["soon", "", "-1", "1e3", "nan", "9" * 13, "9" * 5000])
async def test_a_spoilt_lag_says_nothing_of_that_replica(store: RedisStore, keys: Keys, lag: str) -> None:
    """What is no number of milliseconds is not taken for one, and hides no other replica's."""
    for replica, late in (("r1", lag), ("r2", "12")):
        await store.presence(replica, 30.0)
        keys.ask("HSET", "v1:learned", replica, late)
    assert await store.fleet("auth") == {"r1": None, "r2": 0.012}


@pytest.mark.parametrize("how", ["gone", "garbage", "type"])
@pytest.mark.parametrize("part", ["state", "cooldown", "failures"])
async def test_what_people_read_is_written_again(caller: Caller, keys: Keys, part: str, how: str) -> None:
    """A readable key that was deleted or overwritten is derived again from the record by the next read."""
    await furnish(caller, "OPEN")
    before = keys.ask("GET", part)
    keys.spoil(part, how)
    await caller.read()
    assert keys.ask("GET", part) == before


@pytest.mark.parametrize("how", ["garbage", "type"])
@pytest.mark.parametrize("part", ["state", "v1:epoch", "v1:window", "v1:probes"])
async def test_a_repair_is_reported(caller: Caller, keys: Keys, part: str, how: str) -> None:
    """Whoever finds garbage says in which key it was."""
    await furnish(caller, "HALF_OPEN" if part == "v1:probes" else "CLOSED")
    keys.spoil(part, how)
    assert part.removeprefix("v1:") in (await caller.read()).mended


_FIELDS = {
    "epoch": ["-", "x.1.y", "ab.1", "ab.1.cd.2", f"ab.{10**15 + 1}.cd", f"{'ab' * 33}.1.cd", f"ab.1.{'cd' * 33}"],
    "state": ["-", "open", "BROKEN"],
    "since": ["-", "-1", "x", "9" * 30],
    "until": ["-", "x", "9" * 30, "9" * 400],
    "cooldown": ["-", "x", "9" * 30],
    "opens": ["-", "x", "9" * 30, str(10**6 + 1)],
    "override": ["BROKEN", "observe", ""],
    "override_until": ["-", "x", "9" * 30],
    "failures": ["-", "x"],
    "calls": ["-", "x"],
    "previous_state": ["BROKEN", "closed"],
    "previous_since": ["-", "x"],
    "error": ["", "x" * 301],
    "cause": ["", "x" * 301],
}
_WRONG_FIELDS = [(field, value) for field, values in _FIELDS.items() for value in values]


@pytest.mark.parametrize(("field", "value"), _WRONG_FIELDS)
async def test_a_record_with_one_wrong_field_poisons_nothing(
    caller: Caller, keys: Keys, field: str, value: str
) -> None:
    """A record that is nearly right raises nothing either, and gives way to a sound one (race 15)."""
    order = list(_FIELDS)
    order[order.index("failures") : order.index("failures")] = ["reason", "replica"]
    order[order.index("previous_state") : order.index("previous_state")] = ["previous"]
    await furnish(caller, "OPEN")
    words = keys.ask("GET", "v1:epoch").split(" ")
    words[order.index(field)] = value
    keys.ask("SET", "v1:epoch", " ".join(words))
    await use(caller)
    found = await caller.read(seed=True)
    assert (await caller.change(State.CLOSED, expected=epoch(found))).status == "won"
    assert keys.ask("GET", "state") == "CLOSED"


_LIMITS = [
    f"ab.{10**15}.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    f"ab.{10**15 + 1}.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    "ab.01.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    f"{'a' * 64}.1.{'c' * 64} CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    f"{'a' * 65}.1.cd CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    f"ab.1.{'c' * 65} CLOSED 0 0 0 0 - 0 seed r 0 0 - - 0 - -",
    f"ab.1.cd OPEN {10**15} {10**15} {10**15} {10**6} - {10**15} seed r {10**15} {10**15} - - {10**15} - -",
    *(
        f"ab.1.cd CLOSED {number} 0 0 0 - 0 seed r 0 0 - - 0 - -"
        for number in ("0" * 300, "0" * 301, str(10**15 + 1), "1_0", "+1", "\u0663")
    ),
    f"ab.1.cd CLOSED 0 0 0 {10**6 + 1} - 0 seed r 0 0 - - 0 - -",
    *(f"ab.1.cd CLOSED 0 0 0 0 - 0 seed {'r' * 300} 0 0 - - 0 {'x' * 300} {'x' * length}" for length in (300, 301)),
    f"ab.1.cd CLOSED 0 0 0 0 - 0 seed {'r' * 300} 0 0 {'p' * 57} - 0 {'x' * 300} {'x' * 300}",
    f"ab.1.cd CLOSED 0 0 0 0 - 0 seed {'r' * 300} 0 0 {'p' * 58} - 0 {'x' * 300} {'x' * 300}",
]


@pytest.mark.parametrize("line", _LIMITS)
async def test_what_is_a_record_here_is_one_there(caller: Caller, keys: Keys, line: str) -> None:
    """Scripts and replicas have the same limits: what one takes for a record is no garbage to the other."""
    keys.ask("SET", "v1:epoch", line)
    try:
        parse(line)
    except ValueError:
        assert (await caller.read()).status == "missing"
    else:
        assert epoch(await caller.read()) == line.split(" ", maxsplit=1)[0]


async def test_a_record_of_another_release_is_a_store_that_does_not_answer(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that the scripts take and this release cannot read raises what a store raises, and nothing else."""
    await caller.seed()
    monkeypatch.setattr("commontrip._transition.FIELDS", ("epoch",))
    parse.cache_clear()
    with pytest.raises(StoreUnavailableError, match="a record has 1 fields"):
        await caller.read()


@pytest.mark.parametrize("number", [-1, 1e300])
@pytest.mark.parametrize("part", ["v1:window", "v1:probes"])
async def test_no_number_in_a_key_spoils_the_next_record(caller: Caller, keys: Keys, part: str, number: float) -> None:
    """Counts and leases with a number that no record can hold are garbage: repaired, and no transition fails."""
    await furnish(caller, "HALF_OPEN" if part == "v1:probes" else "CLOSED")
    spoil = "local w = cmsgpack.unpack(redis.call('GET', KEYS[1])) w[3] = tonumber(ARGV[1]) "
    keys.server.cli("EVAL", spoil + "redis.call('SET', KEYS[1], cmsgpack.pack(w), 'KEEPTTL')", 1, keys(part), number)
    assert part.removeprefix("v1:") in (await caller.read()).mended
    assert (await caller.change(State.CLOSED)).status == "won"


@pytest.mark.parametrize("entry", [("note", "only"), ("epoch", "x", "note", "x")])
async def test_foreign_entries_of_the_stream_are_passed_over(
    caller: Caller, keys: Keys, entry: tuple[str, ...]
) -> None:
    """What somebody else has put into the stream is not history."""
    seeded = await caller.read(seed=True)
    keys.ask("XADD", "transitions", "*", *entry)
    assert await caller.store.history("auth", 9) == [(seeded.transition, "")]


# -- keys that are lost


@pytest.mark.parametrize("left", ["OPEN", "HALF_OPEN", "CLOSED"])
async def test_a_seed_takes_the_state_that_it_finds(caller: Caller, keys: Keys, left: str) -> None:
    """If only the record was evicted, or a state was SET before any replica came, that state holds."""
    keys.ask("SET", "state", left)
    assert (await caller.read()).status == "missing"
    seeded = await caller.read(seed=True, cooldown=20.0)
    assert (seeded.status, keys.ask("GET", "state")) == ("new", left)
    assert seeded.transition is not None
    assert seeded.transition.state == left
    if left == "OPEN":
        assert seeded.transition.until == pytest.approx(seeded.now + 20.0, abs=0.003)
        assert seeded.transition.opens == 1


async def test_lost_leases_admit_nobody_for_one_lease(caller: Caller, keys: Keys) -> None:
    """When the leases are lost nobody gets a place for one lease time, then everybody as before (race 17)."""
    await caller.seed()
    await caller.half_open("l1", seconds=0.2)
    keys.ask("DEL", "v1:probes")
    lost = await caller.lease("l2", seconds=0.2)
    assert (lost.status, lost.in_flight) == ("full", 0)
    assert (await caller.lease("l3", seconds=0.2)).status == "full"
    assert (await caller.settle("l1", "s")).status == "gone"
    await caller.past(lost.now + 0.2)
    assert [(await caller.lease(f"n{n}")).status for n in range(3)] == ["granted", "granted", "full"]


async def test_who_runs_takes_its_lost_place_again(caller: Caller, keys: Keys) -> None:
    """When the leases are lost, a probe that runs is back in its place with its next renewal (race 17)."""
    await caller.seed()
    await caller.half_open("l1", seconds=0.1)
    keys.ask("DEL", "v1:probes")
    renewed = await caller.lease("l1", seconds=0.1, renew=True)
    assert (renewed.status, renewed.in_flight) == ("granted", 1)
    assert (await caller.lease("l2", seconds=0.1)).status == "full"
    await caller.lease("l1", seconds=20.0, renew=True)
    await caller.past(renewed.now + 0.1)
    assert [(await caller.lease(f"n{n}")).status for n in range(2)] == ["granted", "full"]


# -- hands


@pytest.mark.parametrize(("held", "wanted"), [("CLOSED", "OPEN"), ("OPEN", "CLOSED"), ("HALF_OPEN", "OPEN")])
async def test_a_state_set_by_hand_is_seen_by_everybody(caller: Caller, keys: Keys, held: str, wanted: str) -> None:
    """Whatever is asked next says what somebody has SET, and does nothing else (race 13)."""
    at = await furnish(caller, held)
    keys.ask("SET", "state", wanted)
    views = [
        await caller.read(),
        await caller.record("f"),
        await caller.lease("l2"),
        await caller.settle("held", "s", grid=9 * "c"),
        await caller.change(State.HALF_OPEN),
    ]
    assert {(view.status, view.by_hand, epoch(view)) for view in views} == {("ext", State(wanted), at)}
    assert await caller.store.look(["auth"]) == [(wanted, record(views[0]))]
    assert keys.ask("GET", "state") == wanted


async def test_a_state_set_by_hand_becomes_a_transition(caller: Caller, keys: Keys) -> None:
    """The transition `external` takes up what was SET, and only that."""
    await caller.seed()
    keys.ask("SET", "state", "OPEN")
    other = await caller.change(State.HALF_OPEN, reason="external")
    assert (other.status, other.by_hand) == ("lost", State.OPEN)
    obeyed = await caller.open(20.0, reason="external")
    assert (obeyed.status, obeyed.by_hand) == ("won", None)
    assert obeyed.transition is not None
    assert obeyed.transition.reason == "external"
    again = await caller.open(20.0, reason="external")
    assert (again.status, epoch(again)) == ("lost", epoch(obeyed))


async def test_an_order_goes_over_a_state_set_by_hand(caller: Caller, keys: Keys) -> None:
    """An operator's override wins against a SET."""
    await caller.seed()
    keys.ask("SET", "state", "OPEN")
    order = {"override": Override.DISABLED, "override_for": 60.0, "reason": "override"}
    assert (await caller.change(State.CLOSED, **order)).status == "won"
    assert keys.ask("GET", "state") == "CLOSED"


async def test_a_set_under_an_order_is_repaired(caller: Caller, keys: Keys) -> None:
    """While an order is in force a SET is put right and reported; afterwards it is obeyed."""
    await caller.seed()
    order = {"override": Override.OBSERVE, "override_for": 0.2, "reason": "override"}
    ordered = await caller.change(State.CLOSED, **order)
    keys.ask("SET", "state", "OPEN")
    view = await caller.record("f", epoch=epoch(ordered))
    assert (view.status, view.by_hand, view.mended) == ("ok", None, "state")
    assert keys.ask("GET", "state") == "CLOSED"
    assert ordered.transition is not None
    await caller.past(ordered.transition.override_until)
    keys.ask("SET", "state", "OPEN")
    assert (await caller.record("f")).by_hand is State.OPEN


async def test_lower_case_is_garbage(caller: Caller, keys: Keys) -> None:
    """Only the exact words are states; anything else is repaired."""
    await caller.seed()
    keys.ask("SET", "state", "open")
    view = await caller.read()
    assert (view.status, view.mended) == ("ok", "state")
    assert keys.ask("GET", "state") == "CLOSED"


# -- time to live


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_every_key_has_a_ttl_that_outlives_the_open_period(caller: Caller, keys: Keys, situation: str) -> None:
    """No key is left for ever, none but a replica's last batch ends before the cooldown (race 22)."""
    await furnish(caller, situation, cooldown=2 * HOUR)
    found = {key: float(str(keys.server.cli("PTTL", key))) / 1000 for key in keys.all()}
    assert {keys("state"), keys("v1:epoch"), keys("v1:window"), keys("v1:seen:r1")} <= found.keys()
    assert min(found.values()) > 0
    if situation in {"OPEN", "FORCED_OPEN"}:
        brief = {keys("v1:seen:r1"), keys("v1:window"), f"{keys.prefix}:replicas", keys("v1:override")}
        assert min(ttl for key, ttl in found.items() if key not in brief) >= 2 * HOUR


async def test_failures_end_with_the_window(caller: Caller, keys: Keys) -> None:
    """What is counted now is gone with the window; under a streak it is the run."""
    await caller.seed()
    await caller.record("fsf", window=20.0)
    assert keys.ask("GET", "failures") == "2"
    assert 0 < float(keys.ask("PTTL", "failures")) <= 20_000
    await caller.record("ff", window=20.0, show_run=True)
    assert keys.ask("GET", "failures") == "3"
    await caller.record("s", window=20.0, show_run=True)
    assert keys.ask("EXISTS", "failures") == "0"


async def test_the_time_of_the_last_failure(caller: Caller, keys: Keys) -> None:
    """`lastFailure` is Redis's time in ms; a success does not touch it."""
    await caller.seed()
    view = await caller.record("sf")
    assert keys.ask("GET", "lastFailure") == f"{view.now * 1000:.0f}"
    await caller.past(view.now)
    await caller.record("s")
    assert keys.ask("GET", "lastFailure") == f"{view.now * 1000:.0f}"


async def test_the_readable_keys_of_an_open_circuit(caller: Caller, keys: Keys) -> None:
    """While OPEN, `failures` is the count that tripped and `cooldown` the one that runs, in ms."""
    await caller.seed()
    await caller.open(20.0, failures=7)
    assert [keys.ask("GET", part) for part in ("state", "failures", "cooldown")] == ["OPEN", "7", "20000"]
    await caller.change(State.CLOSED)
    assert keys.ask("GET", "cooldown") == "0"
    assert keys.ask("EXISTS", "failures") == "0"


async def test_traffic_keeps_a_breaker_alive(caller: Caller, keys: Keys) -> None:
    """Records renew the TTL of what they do not write, once in a while."""
    await caller.seed()
    for part in ("state", "cooldown", "v1:epoch"):
        keys.ask("PEXPIRE", part, 5_000)
    await caller.record("f")
    for part in ("state", "cooldown", "v1:epoch"):
        assert float(keys.ask("PTTL", part)) > 500_000


async def test_a_set_of_the_same_state_leaves_no_key_for_ever(caller: Caller, keys: Keys) -> None:
    """SET by hand drops a key's TTL, also when it changes nothing: the next read gives it one."""
    await caller.seed()
    await caller.record("f")
    keys.ask("SET", "state", "CLOSED")
    await caller.read()
    assert float(keys.ask("PTTL", "state")) > 0


@pytest.mark.parametrize("situation", ["OPEN", "HALF_OPEN"])
async def test_a_refusal_extends_nothing(caller: Caller, keys: Keys, situation: str) -> None:
    """A refused attempt for a place renews no TTL, so what nobody heals still ends."""
    await furnish(caller, situation)
    if situation == "HALF_OPEN":
        await caller.lease("second")
    for key in keys.all():
        keys.server.cli("PEXPIRE", key, 5_000)
    assert (await caller.lease("third")).status in {"open", "full"}
    assert max(float(str(keys.server.cli("PTTL", key))) for key in keys.all()) <= 5_000


# -- clocks


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_a_cooldown_lasts_no_longer_than_itself(caller: Caller, keys: Keys, shift: float) -> None:
    """An hour's jump of the clock makes no cooldown longer (races 30, 31)."""
    await furnish(caller, "OPEN", cooldown=20.0)
    keys.shift(shift)
    view = await caller.lease("l1")
    if shift < 0:
        assert view.status == "granted"
    else:
        assert view.status == "open"
        again = await caller.read()
        assert again.transition is not None
        assert again.transition.until - again.now <= 20.0
        assert again.transition.since <= again.now


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_an_order_lasts_no_longer_than_it_was_meant_to(caller: Caller, keys: Keys, shift: float) -> None:
    """An hour's jump of the clock makes no override longer (race 30)."""
    await furnish(caller, "CLOSED")
    await caller.change(State.CLOSED, override=Override.DISABLED, override_for=20.0)
    keys.shift(shift)
    view = await caller.record("f")
    assert view.transition is not None
    assert view.status == ("ok" if shift < 0 else "old")
    assert view.transition.override_until - view.now <= 20.0


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_a_lease_lasts_no_longer_than_itself(caller: Caller, keys: Keys, shift: float) -> None:
    """An hour's jump of the clock blocks a place for one lease at most (races 30, 31)."""
    await caller.seed()
    await caller.half_open("l1", seconds=0.2, probes=1)
    keys.shift(shift)
    view = await caller.lease("l2", seconds=0.2, probes=1)
    if shift < 0:
        assert view.status == "granted"
    else:
        assert view.status == "full"
        await caller.past(view.now + 0.2)
        assert (await caller.lease("l2", seconds=0.2, probes=1)).status == "granted"


async def test_the_rest_after_lost_leases_lasts_no_longer_than_itself(caller: Caller, keys: Keys) -> None:
    """An hour's jump of the clock keeps nobody out for more than one lease (races 30, 31)."""
    await caller.seed()
    await caller.half_open("l1", seconds=0.2)
    keys.ask("DEL", "v1:probes")
    assert (await caller.lease("l2", seconds=0.2)).status == "full"
    keys.shift(HOUR)
    view = await caller.lease("l2", seconds=0.2)
    assert view.status == "full"
    await caller.past(view.now + 0.2)
    assert (await caller.lease("l2", seconds=0.2)).status == "granted"


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
async def test_counts_of_another_time_are_no_counts(caller: Caller, keys: Keys, shift: float) -> None:
    """Counts, streaks and runs of a time that has not come yet are forgotten, as old ones are (race 30)."""
    await furnish(caller, "CLOSED")
    await caller.record("ffff")
    keys.shift(shift)
    assert (await caller.read()).counts == Counts()
    assert (await caller.record("f")).counts == Counts(1, 1, 0, 1, 1)


async def test_a_retry_after_lasts_no_longer_than_it_was_asked_for(caller: Caller, keys: Keys) -> None:
    """An hour's jump of the clock makes no Retry-After longer, whoever asks, and it ends (race 30)."""
    await caller.seed()
    await caller.record(run("f", retry_after=0.5))
    keys.shift(HOUR)
    assert 0 < (await caller.read()).retry_after <= 0.5
    counted = await caller.record("f")
    assert 0 < counted.retry_after <= 0.5
    await caller.past(counted.now + 0.5)
    assert (await caller.read()).retry_after == 0


async def test_nobody_is_in_the_fleet_for_longer_than_he_said(store: RedisStore, keys: Keys) -> None:
    """After an hour's jump of the clock who has gone is forgotten within a key's TTL (race 30)."""
    keys.server.cli("ZADD", f"{keys.prefix}:replicas", 9e15, "gone")
    assert await store.presence("r1", 30.0) == 2
    scores = [
        float(str(one)) / 1000 for one in _list(keys.server.cli("ZMSCORE", f"{keys.prefix}:replicas", "gone", "r1"))
    ]
    assert [score - _time(keys.server) for score in scores] == pytest.approx([store.ttl, 30.0], abs=2)


async def test_the_clock_is_the_servers(caller: Caller, keys: Keys) -> None:
    """What a store calls now is Redis's TIME, to the millisecond."""
    before = _time(keys.server)
    view = await caller.read()
    assert before - 0.001 <= view.now <= _time(keys.server)


def _time(server: Server) -> float:
    seconds, micros = (int(str(part)) for part in _list(server.cli("TIME")))
    return seconds + micros / 1e6


def _list(reply: object) -> list[object]:
    assert isinstance(reply, list)
    return reply


# -- numbers


async def test_large_numbers_survive(caller: Caller, keys: Keys) -> None:
    """No number is written as 1e+15: counts, numbers of batches and transitions, times (race 21)."""
    large = 10**15 - 10
    await caller.seed()
    at = epoch(await caller.change(State.CLOSED, floor=large))
    assert Epoch.parse(at).number == large + 1
    counted = await caller.record(Run(calls=large, failures=large, longest=large, last=large), number=large)
    assert counted.counts == Counts(large, large, 0, large, large)
    assert keys.ask("GET", "failures") == str(large)
    assert (await caller.record("f", number=large)).status == "dup"
    assert (await caller.record("f", number=large + 1)).counts.calls == large + 1
    view = await caller.open(86_400.0, failures=large, calls=large, opens=10**6)
    made = view.transition
    assert made is not None
    assert (made.failures, made.calls, made.opens) == (large, large, 10**6)
    assert (made.epoch.number, made.until - made.since) == (large + 2, pytest.approx(86_400.0))
    every = " ".join(keys.ask("GET", part) for part in ("failures", "lastFailure", "cooldown", "v1:epoch"))
    assert not re.search(r"[ .]\d+\.?\d*e\+", every)


def test_scripts_draw_no_random_numbers() -> None:
    """Redis seeds Lua's random numbers alike for every script: none are used (race 20)."""
    scripts = [file for file in (resources.files("commontrip") / "lua").iterdir() if file.name.endswith(".lua")]
    assert len(scripts) >= 7
    assert not [file.name for file in scripts if "random" in file.read_text()]


# -- rights


@pytest.fixture
def lacking(server: Server, prefix: str) -> Iterator[Callable[[str], str]]:
    """Make users that lack one right; return their address."""
    made: list[str] = []

    def without(command: str) -> str:
        name, word = f"{prefix}-{command.lower()}", secrets.token_hex(8)
        server.cli("ACL", "SETUSER", name, "on", f">{word}", "~*", "&*", "+@all", f"-{command.lower()}")
        made.append(name)
        return f"redis://{name}:{word}@127.0.0.1:{server.port}/0"

    yield without
    for name in made:
        server.cli("ACL", "DELUSER", name)


async def _seeding(caller: Caller, _: str) -> object:
    return await caller.read(seed=True)


_OPERATIONS: dict[str, tuple[str, Callable[[Caller, str], Awaitable[object]]]] = {
    "seed": ("", _seeding),
    "record": ("CLOSED", lambda caller, at: caller.record("ff", epoch=at)),
    "transition": ("CLOSED", lambda caller, at: caller.open(expected=at)),
    "lease": ("HALF_OPEN", lambda caller, _: caller.lease("second")),
    "begin": ("due", lambda caller, _: caller.lease("first")),
    "settle": ("HALF_OPEN", lambda caller, at: caller.settle("held", "f", epoch=at)),
    "learned": ("CLOSED", lambda caller, at: caller.store.learned("auth", at, "r1", 0.5)),
    "presence": ("CLOSED", lambda caller, _: caller.store.presence("r2", 30.0)),
}


@pytest.mark.parametrize("operation", _OPERATIONS)
@pytest.mark.parametrize("command", ["XADD", "PUBLISH", "HSET", "PEXPIRE", "DEL"])
async def test_a_missing_right_leaves_nothing_half_done(
    caller: Caller, connect: Connect, lacking: Callable[[str], str], command: str, operation: str
) -> None:
    """Without one right an operation is done, or refused as misconfigured with nothing changed (race 16)."""
    situation, ask = _OPERATIONS[operation]
    if situation == "due":
        await caller.seed()
        opened = await caller.open(0.01)
        await caller.past(opened.now + 0.01)
    elif situation:
        await furnish(caller, situation)
    at = await caller.epoch()
    before = await _all(caller)
    poor = Caller(connect(lacking(command)), replica="poor")
    try:
        await ask(poor, at)
    except StoreUnavailableError as error:
        assert error.misconfigured, error  # noqa: PT017 - it may also be done without that right
        assert await _all(caller) == before
    else:
        assert await _all(caller) != before
    found = await caller.read()
    [(state, line)] = await caller.store.look(["auth"])
    assert (state, line) == (found.transition.state if found.transition else "", record(found))
    assert not found.mended


async def _all(caller: Caller) -> tuple[object, ...]:
    found = await caller.read()
    tallies = (found.counts, found.succeeded, found.failed, found.in_flight)
    return (found.transition, tallies, await caller.store.fleet("auth"))


@pytest.mark.parametrize("wrong", ["password", "user", "none"])
async def test_wrong_credentials_are_a_mistake_of_configuration(
    server: Server, connect: Connect, prefix: str, wrong: str
) -> None:
    """Whoever may not log in is told that waiting will not help."""
    server.cli("ACL", "SETUSER", prefix, "on", ">right", "~*", "&*", "+@all")
    login = {"password": f"{prefix}:wrong@", "user": "nobody:right@", "none": ""}[wrong]
    if wrong == "none":
        server.cli("ACL", "SETUSER", prefix, "-@all")
        login = f"{prefix}:right@"
    store = connect(f"redis://{login}127.0.0.1:{server.port}")
    with pytest.raises(StoreUnavailableError, match="check its credentials and rights") as caught:
        await Caller(store).read()
    assert caught.value.misconfigured
    assert not isinstance(caught.value, StoreSilentError)
    server.cli("ACL", "DELUSER", prefix)


# -- a server that does not do its work


async def test_a_lost_reply_is_silence(caller: Caller, connect: Connect, proxy: Proxy) -> None:
    """When the connection breaks nobody knows whether it was done; asked again, it is done once."""
    await caller.seed()
    at = await caller.epoch()
    through = Caller(connect(proxy.url))
    await through.store.start(lambda *_: None, lambda: None)
    proxy.lose_replies(command="EVALSHA")
    with pytest.raises(StoreSilentError) as caught:
        await through.record("ff", epoch=at, number=1)
    assert not caught.value.misconfigured
    assert (await through.record("ff", epoch=at, number=1)).status == "dup"
    assert (await caller.read()).counts.failures == 2


async def test_a_refused_connection_is_no_silence(connect: Connect, proxy: Proxy) -> None:
    """Where nobody listens, it is known that nothing was done."""
    proxy.refuse()
    with pytest.raises(StoreUnavailableError) as caught:
        await Caller(connect(proxy.url)).read()
    assert not isinstance(caught.value, StoreSilentError)
    assert not caught.value.misconfigured


async def test_a_replica_is_left_for_the_master(fresh_server: Callable[..., Server], connect: Connect) -> None:
    """A server that became a replica is unavailable, its connections are closed, and it can come back."""
    server = fresh_server()
    caller = Caller(connect(server.url))
    at = await caller.seed()
    server.cli("REPLICAOF", "127.0.0.1", 1)
    connected = _connections(server)
    with pytest.raises(StoreUnavailableError, match=r"(?i)read.?only") as caught:
        await caller.record("f", epoch=at)
    assert not isinstance(caught.value, StoreSilentError)
    await eventually(lambda: _connections(server) < connected, "the connection to be closed")
    server.cli("REPLICAOF", "NO", "ONE")
    assert (await caller.record("f", epoch=at)).status == "ok"


def _connections(server: Server) -> int:
    return int(server.info("clients")["connected_clients"])


async def test_a_full_server_is_unavailable(fresh_server: Callable[..., Server], connect: Connect) -> None:
    """A server that takes no more writes refuses to work; that is no silence."""
    server = fresh_server()
    caller = Caller(connect(server.url))
    at = await caller.seed()
    await caller.record("f", epoch=at)
    server.config("maxmemory", "1")
    with pytest.raises(StoreUnavailableError, match=r"OOM|maxmemory") as caught:
        await caller.record("f", epoch=at)
    assert not isinstance(caught.value, StoreSilentError)
    server.config("maxmemory", "0")
    assert (await caller.record("f", epoch=at)).status == "ok"


async def test_a_server_that_loads_its_data_is_no_silence(connect: Connect) -> None:
    """A server that answers LOADING refuses to work: nobody waits for it to fall silent."""

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():  # more answers than commands do no harm
            writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
        writer.close()

    loading = await asyncio.start_server(load, "127.0.0.1", 0)
    store = connect(f"redis://127.0.0.1:{loading.sockets[0].getsockname()[1]}")
    with pytest.raises(StoreUnavailableError, match="BusyLoadingError") as caught:
        await Caller(store).read()
    assert not isinstance(caught.value, StoreSilentError)
    await store.aclose()
    loading.close()
    await loading.wait_closed()


async def test_a_listener_comes_back(connect: Connect, proxy: Proxy, caller: Caller) -> None:
    """A broken subscription is made again, and the gap reported, however long the server was away."""
    ears = Ears()
    store = connect(proxy.url)
    proxy.refuse()
    with pytest.raises(StoreUnavailableError):
        await store.start(ears.hear, ears.gap)
    await proxy.accept()
    await ears.listen()
    proxy.cut()
    await eventually(lambda: ears.gaps == 2, "the subscription to be made again")
    await caller.seed()
    await eventually(lambda: len(ears.heard) == 1, "the seed to be heard")


async def test_a_client_with_health_checks_listens(server: Server, prefix: str, caller: Caller) -> None:
    """What a client of the user's own asks on the subscription's connection is not taken for news."""
    ears = Ears()
    client = Redis.from_url(server.url, decode_responses=True, health_check_interval=0.05)
    store = RedisStore(client, prefix=prefix)
    await store.start(ears.hear, ears.gap)
    await ears.listen()
    await caller.seed()
    for n in range(3):
        await eventually(lambda n=n: len(ears.heard) == n + 1, "the transition to be heard")
        await asyncio.sleep(0.06)  # a check is due; not already while it connects, which confuses redis-py's answers
        await caller.change(State.CLOSED)
    await store.aclose()


async def test_a_closed_store_hears_nothing_more(server: Server, connect: Connect, caller: Caller) -> None:
    """After `aclose` nothing is heard and no connection is left; closing twice does no harm."""
    ears = Ears()
    connected = _connections(server)
    store = connect(server.url)
    await store.start(ears.hear, ears.gap)
    await ears.listen()
    await store.aclose()
    await store.aclose()
    await caller.seed()
    assert ears.heard == []
    await eventually(lambda: _connections(server) <= connected + 1, "the connections to be closed")


async def test_a_start_warms_connections_and_scripts(server: Server, connect: Connect, proxy: Proxy) -> None:
    """After the start the first calls pay for no connection and no script."""
    store = connect(proxy.url)
    server.cli("SCRIPT", "FLUSH")
    await store.start(lambda *_: None, lambda: None)
    proxy.forget()
    opened = proxy.connections
    await use(Caller(store))
    assert (proxy.counts["EVAL"], proxy.counts["SCRIPT"], proxy.connections) == (0, 0, opened)


async def test_one_call_is_one_command(connect: Connect, proxy: Proxy) -> None:
    """Every request is one round trip, the fleet's two, also when many breakers are asked for at once."""
    caller = Caller(connect(proxy.url))
    await caller.store.start(lambda *_: None, lambda: None)
    at = await caller.seed()
    await caller.store.presence("r1", 30.0)
    others = [Caller(caller.store, f"host-{n}") for n in range(20)]
    requests: list[tuple[int, Callable[[], Awaitable[object]]]] = [
        (1, lambda: caller.store.read([other.ask() for other in others])),
        (1, lambda: caller.store.record([other.batch("f", epoch=at) for other in others])),
        (1, lambda: caller.open(expected=at)),
        (1, caller.lease),
        (1, lambda: caller.settle(epoch=at, grid=GRID, token=mint())),
        (1, lambda: caller.store.look([other.name for other in others])),
        (1, lambda: caller.store.history("auth", 9)),
        (1, lambda: caller.store.presence("r1", 9.0)),
        (1, lambda: caller.store.learned("auth", at, "r1", 0.1)),
        (2, lambda: caller.store.fleet("auth")),
    ]
    for round_trips, request in requests:
        proxy.forget()
        await request()
        assert proxy.counts.total() == round_trips, proxy.counts


async def test_no_command_is_long(connect: Connect, proxy: Proxy) -> None:
    """What asks for many breakers goes in several commands, each of which holds the server for a moment only."""
    store = connect(proxy.url)
    await store.start(lambda *_: None, lambda: None)
    callers = [Caller(store, f"host-{n}") for n in range(45)]
    proxy.forget()
    await store.read([caller.ask(seed=True) for caller in callers])
    await store.record([caller.batch("f", epoch="ab.0.cd") for caller in callers])
    scripts = [command for command in proxy.history if command.name == "EVALSHA"]
    assert len(scripts) == store.commands("read", 45) + store.commands("record", 45) == 6
    assert max(int(command.words[2]) for command in scripts) == 20 * 10
    await store.look([f"host-{n}" for n in range(1001)])
    assert proxy.counts["MGET"] == store.commands("look", 1001) == 3


# -- a client made elsewhere


async def test_a_client_made_elsewhere(server: Server, prefix: str) -> None:
    """A store takes a client of the user's own, and closes it."""
    client = Redis.from_url(server.url, decode_responses=True)
    caller = Caller(RedisStore(client, prefix=prefix))
    await caller.seed()
    assert parse((await caller.store.look(["auth"]))[0][1]).is_seed
    await caller.store.aclose()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prefix": "a b"}, r"prefix must be .*, not 'a b'"),
        ({"prefix": "{x}"}, r"prefix must be .*, not '\{x\}'"),
        ({"prefix": ""}, "prefix must be .*, not ''"),
        ({"ttl": 59}, "ttl must be a number at least 60 and at most 2592000, not 59"),
        ({"ttl": float("nan")}, "ttl must be .*, not nan"),
        ({"ttl": 2_592_001}, "ttl must be .*, not 2592001"),
        ({"history": 9}, "history must be a whole number from 10 to 100000, not 9"),
        ({"history": 10.5}, r"history must be .*, not 10\.5"),
    ],
)
def test_wrong_arguments(wrong: dict[str, object], says: str) -> None:
    """A wrong setting of a store is a ValueError that names it, its value and its range."""
    with pytest.raises(ValueError, match=says):
        RedisStore.from_url("redis://localhost", **wrong)
