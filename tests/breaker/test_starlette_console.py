"""The console as a server serves it: its files, its stream, and what it asks of the store. The page: tests/browser."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from commontrip import (
    AllOf,
    AnyOf,
    Applied,
    Breakers,
    ConsecutiveFailures,
    Cooldown,
    Counts,
    FailureCount,
    FailureRate,
    Listener,
    MemoryStore,
    Override,
    Policy,
    SlowCallRate,
    State,
    StoreUnavailableError,
    Transition,
    Trip,
)
from commontrip._store import Ask, View
from commontrip._transition import Epoch
from commontrip.redis import RedisStore
from commontrip.starlette import BreakerRoutes, _fleet, _watch
from commontrip.starlette._fleet import Fleet
from commontrip.starlette._picture import gauges, parts
from commontrip.testing import FakeClock
from tests.breaker.site import ORDER, POLICY, TOKEN, Site, Watcher, body_of, trip
from tests.support.waiting import PATIENCE, eventually


class Store(MemoryStore):
    """A store that counts what it is asked for, and may be away."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.asked: Counter[str] = Counter()
        self.counts: list[int] = []
        """How long the histories were that were asked for."""
        self.away = False

    def _ask(self, operation: str) -> None:
        self.asked[operation] += 1
        if self.away:
            raise StoreUnavailableError(operation, "away")

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        """See `Store.read`."""
        self._ask("read")
        return await super().read(asks)

    async def history(self, name: str, count: int) -> list[tuple[Transition, str]]:
        """See `Store.history`."""
        self._ask("history")
        self.counts.append(count)
        return await super().history(name, count)

    async def fleet(self, name: str) -> dict[str, float | None]:
        """See `Store.fleet`."""
        self._ask("fleet")
        return await super().fleet(name)


class House:
    """A process with breakers and a console."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.board = BreakerRoutes(token=TOKEN)

    async def start(self, *names: str, listeners: Sequence[Listener] = ()) -> None:
        """Start it with these breakers, each of them used."""
        self.breakers = Breakers(
            self.store, listeners=[self.board, *listeners], clock=self.clock, replica="r1", store_budget=PATIENCE
        )
        await self.breakers.__aenter__()
        for name in names:
            async with self.breakers.get(name, POLICY):
                pass
        await self.breakers.flush()
        self.store.asked.clear()
        self.site = Site(self.board, self.breakers)

    def watcher(self) -> Watcher:
        """Return one more client of the console's stream."""
        return Watcher(self.site, "/console/events")


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A process whose console looks at the store twenty times a second."""
    monkeypatch.setattr(_watch, "_EVERY", 0.05)
    made = House()
    yield made
    await made.breakers.__aexit__(None, None, None)


async def until(watcher: Watcher, name: str, part: str, wanted: Callable[[Any], bool]) -> Any:
    """Wait until a client knows something of a breaker, and return it."""
    await eventually(lambda: wanted(known(watcher, name).get(part)), f"{part} of {name}")
    return known(watcher, name)[part]


def known(watcher: Watcher, name: str) -> dict[str, Any]:
    """Return what a client knows of a breaker: the parts of the picture, and what has changed since."""
    parts: dict[str, Any] = {}
    for event in watcher.events:
        if event["event"] == "picture":
            parts = {}
        found = event["data"]["breakers"].get(name, {})
        parts = {} if found is None else parts | found | {"made": parts.get("made", []) + found.get("made", [])}
    return parts


# -- the files


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("console.css", "text/css; charset=utf-8"),
        ("console.js", "text/javascript; charset=utf-8"),
        ("draw.js", "text/javascript; charset=utf-8"),
        ("order.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
async def test_the_page_loads_nothing_from_elsewhere(house: House, path: str, kind: str) -> None:
    """Each file is what it says, may load from its own origin only, run nothing inline, and be framed by nobody."""
    await house.start()
    answer = await house.site.client.get(f"/console/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    content = answer.headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in content.split("; "))
    for thing in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert rules.pop(thing) == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) == {"'self'"}
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


@pytest.mark.parametrize("path", ["console/x", "console/../starlette", "console//", "console/console", "consoles"])
async def test_there_are_no_other_files(house: House, path: str) -> None:
    """Fixed names are served, and nothing else of the disk."""
    await house.start()
    assert (await house.site.client.get(f"/{path}")).status_code == 404


async def test_the_page_is_found_under_any_prefix(house: House) -> None:
    """Without its slash the page is found by a relative address, which no proxy's prefix spoils."""
    await house.start()
    site = Site(house.board, house.breakers, prefix="/ops/here")
    answer = await site.client.get("/ops/here/console")
    assert (answer.status_code, answer.headers["location"]) == (307, "console/")
    assert (await site.client.get("/ops/here/console/")).status_code == 200
    async with Watcher(site, "/ops/here/console/events") as watcher:
        assert (await watcher.next())["event"] == "picture"


async def test_without_a_token_the_page_offers_no_orders(house: House) -> None:
    """The page is told whether orders can be given at all."""
    await house.start()
    for board, offered in ((house.board, True), (BreakerRoutes(), False)):
        async with Watcher(Site(board, house.breakers), "/console/events") as watcher:
            assert (await watcher.next())["data"]["orders"] is offered


async def test_an_order_from_the_page_is_obeyed(house: House) -> None:
    """The page's own address for orders is as well guarded as the other, and does the same."""
    await house.start("auth")
    path = "/console/override?breaker=auth"
    await house.site.refused(401, path, "POST", json=ORDER)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    await house.site.refused(404, "/console/override?breaker=nobody", "POST", json=ORDER, headers=headers)
    await house.site.refused(404, "/console/override", "POST", json=ORDER, headers=headers)
    assert house.breakers.get("auth").state == State.CLOSED
    assert body_of(await house.site.client.post(path, json=ORDER, headers=headers), 200)["override"] == "FORCED_OPEN"


# -- the stream


async def test_a_picture_comes_first_and_then_what_has_changed(house: House) -> None:
    """A client is told all at once, when to come again, and then only the parts that are different."""
    await house.start("auth")
    async with house.watcher() as watcher:
        first = await watcher.next()
        assert (first["event"], first["retry"]) == ("picture", "1000")
        assert {key: first["data"][key] for key in ("replica", "answers", "more")} == {
            "replica": "r1", "answers": True, "more": 0,
        }  # fmt: skip
        assert abs(first["data"]["now"] - house.clock()) < 5
        auth = first["data"]["breakers"]["auth"]
        assert (auth["state"], auth["override"], auth["remaining"], auth["local"]) == ("CLOSED", None, None, False)
        assert auth["totals"]["success"] == 1
        await until(watcher, "auth", "replicas", lambda replicas: replicas == {"r1": 0.0})
        quiet = len(watcher.events)
        await eventually(lambda: len(watcher.events) > quiet + 2, "signs of life")
        assert [event["data"]["breakers"] for event in watcher.events[quiet + 1 :]] == [{}] * (
            len(watcher.events) - quiet - 1
        )
        async with house.breakers.get("auth"):
            pass
        await until(watcher, "auth", "totals", lambda totals: totals["success"] == 2)
        [changed] = [event["data"]["breakers"]["auth"] for event in watcher.events[quiet:] if event["data"]["breakers"]]
        assert set(changed) <= {"totals", "gauges"}


async def test_a_transition_is_told_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trip does not wait for the next look: what holds now, why, and for how long, is sent in the next turn."""
    monkeypatch.setattr(_watch, "_EVERY", 3600)
    await house.start("auth")
    async with house.watcher() as watcher:
        await until(watcher, "auth", "replicas", bool)
        await trip(house.breakers.get("auth"))
        await until(watcher, "auth", "state", lambda state: state == "OPEN")
        auth = known(watcher, "auth")
    assert 29 < auth["remaining"] <= 30
    assert auth["held"] == auth["made"][-1]
    assert auth["held"] | {"epoch": "", "since": 0, "number": 1} == {
        "epoch": "", "number": 1, "state": "OPEN", "since": 0, "reason": "tripped", "replica": "r1",
        "before": "CLOSED", "failures": 1, "calls": 2, "error": "AwayError", "cooldown": 30.0,
    }  # fmt: skip


async def test_many_transitions_at_once_are_one_event(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transitions of one turn of the loop travel together, so that no crowd of circuits floods a client."""
    monkeypatch.setattr(_watch, "_EVERY", 3600)
    names = [f"b{number}" for number in range(20)]
    await house.start(*names)
    async with house.watcher() as watcher:
        await until(watcher, "b19", "replicas", bool)
        before = len(watcher.events)
        for name in names:
            await trip(house.breakers.get(name))
        await house.breakers.flush()
        await until(watcher, "b19", "state", lambda state: state == "OPEN")
        assert all(known(watcher, name)["state"] == "OPEN" for name in names)
        assert len(watcher.events) - before <= 3


async def test_an_override_is_shown_with_its_note_and_its_end(house: House) -> None:
    """Who ordered what, why, and for how long: the note is in the history only, and comes with the next look."""
    await house.start("auth")
    async with house.watcher() as watcher:
        await house.breakers.get("auth").override(Override.OBSERVE, author="ann", reason="drill", seconds=60)
        assert await until(watcher, "auth", "override", bool) == "OBSERVE"
        assert 59 < await until(watcher, "auth", "ordered", bool) <= 60
        made = await until(watcher, "auth", "made", lambda made: bool(made) and bool(made[-1].get("note")))
        assert made[-1]["note"] == "ann: drill"
        assert made[-1]["epoch"] == known(watcher, "auth")["held"]["epoch"]
        await house.breakers.get("auth").override(None, author="ann", reason="over")
        assert await until(watcher, "auth", "ordered", lambda left: left is None) is None


async def test_a_note_that_is_known_stays(house: House) -> None:
    """A look may be faster than this process's own word of the same transition, which knows no note."""
    await house.start("auth")
    auth = house.breakers.get("auth")
    async with house.watcher() as watcher:
        await auth.override(Override.OBSERVE, author="ann", reason="drill", seconds=60)
        await until(watcher, "auth", "made", lambda made: bool(made) and bool(made[-1].get("note")))
        transition = auth.snapshot.transition
        assert transition
        house.board.on_transition(Applied(breaker="auth", transition=transition, made=True, applied_at=house.clock()))
        async with house.watcher() as latecomer:
            for each in (watcher, latecomer):
                made = await until(each, "auth", "made", bool)
                assert (made[-1]["epoch"], made[-1]["note"]) == (str(transition.epoch), "ann: drill")


async def test_all_clients_are_told_the_same_bytes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many watch, each event is made once, and reaches all."""
    monkeypatch.setattr(_watch, "_EVERY", 3600)
    await house.start("auth")
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(house.watcher()) for _ in range(25)]
        await until(watchers[-1], "auth", "replicas", bool)
        house.board._watch._publish()
        unsent = [stream._unsent for stream in house.board._watch.hub.streams]
        assert len(unsent) == 25
        assert len({id(events[-1]) for events in unsent if events}) == 1
        await trip(house.breakers.get("auth"))
        for watcher in watchers:
            await until(watcher, "auth", "state", lambda state: state == "OPEN")


async def test_a_latecomer_is_told_all(house: House) -> None:
    """Whoever comes, or comes again, gets the whole picture with the last hour's transitions."""
    await house.start("auth")
    async with house.watcher() as first:
        await trip(house.breakers.get("auth"))
        await until(first, "auth", "made", lambda made: bool(made) and len(made) >= 2)
        async with house.watcher() as second:
            auth = (await second.next())["data"]["breakers"]["auth"]
    assert [one["reason"] for one in auth["made"]] == ["seed", "tripped"]
    assert auth["state"] == "OPEN"


async def test_a_breaker_that_is_gone_is_taken_back(house: House) -> None:
    """A breaker that nobody holds any more leaves the picture."""
    await house.start("auth")
    house.breakers.get("host-1")
    async with house.watcher() as watcher:
        assert set((await watcher.next())["data"]["breakers"]) == {"auth", "host-1"}
        del house.breakers._kept["host-1"]

        def gone() -> bool:
            gc.collect()  # again and again: a look at the store that is under way holds it too
            return known(watcher, "host-1") == {}

        await eventually(gone, "the breaker to go")
        async with house.watcher() as second:
            assert set((await second.next())["data"]["breakers"]) == {"auth"}


async def test_of_very_many_the_worst_are_shown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is bounded: of more breakers those that are not closed come first, and the rest is a number."""
    monkeypatch.setattr(_watch, "SHOWN", 2)
    await house.start("a", "b", "c", "z")
    await trip(house.breakers.get("z"))
    await house.breakers.flush()
    async with house.watcher() as watcher:
        data = (await watcher.next())["data"]
    assert (list(data["breakers"]), data["more"]) == (["z", "a"], 2)


async def test_a_process_without_breakers_has_a_console(house: House) -> None:
    """Before the first use of a breaker there is an empty picture, and nothing is asked."""
    await house.start()
    async with house.watcher() as watcher:
        assert (await watcher.next())["data"]["breakers"] == {}
        await watcher.next()
    assert not house.store.asked


async def test_a_drain_ends_the_console_too(house: House) -> None:
    """`close` ends the console's streams in order, and at once those that come later."""
    await house.start("auth")
    async with house.watcher() as watcher:
        house.board.close()
        async with asyncio.timeout(5):
            await watcher.task
        assert watcher.ended
        late = await house.site.client.get("/console/events")
        assert (late.status_code, late.text) == (200, "retry: 1000\n\n")


async def test_a_console_that_is_not_read_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops reading has a bounded backlog and is cut off; another one goes on."""
    monkeypatch.setattr(house.board._watch.hub, "_backlog", 5)
    await house.start("auth")
    async with house.watcher() as slow, house.watcher() as quick:
        await slow.next()
        slow.reads.clear()
        async with asyncio.timeout(5):
            await slow.task
        seen = len(quick.events)
        await eventually(lambda: len(quick.events) > seen + 1, "the quick one to go on")


# -- what it costs


class Operations(Listener):
    """What the store was asked for."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def on_store(self, operation: str, seconds: float, error: str) -> None:  # noqa: ARG002 - not looked at
        """Count it."""
        self.seen[operation] += 1


async def test_nothing_is_asked_while_nobody_watches(house: House) -> None:
    """Before the first client and after the last one the store hears nothing of the console."""
    await house.start("auth")
    await trip(house.breakers.get("auth"))
    await house.breakers.flush()
    house.store.asked.clear()
    async with house.watcher() as watcher:
        await until(watcher, "auth", "replicas", bool)
        task = house.board._watch.hub._task
    assert task
    await asyncio.wait({task}, timeout=5)
    assert task.done()
    asked = house.store.asked.copy()
    assert asked["read"] >= 1
    await asyncio.sleep(0.2)  # four looks of one who watches
    await trip_again(house)
    assert house.store.asked["read"] + house.store.asked["fleet"] == asked["read"] + asked["fleet"]


async def test_who_comes_as_the_last_one_leaves_is_served(house: House) -> None:
    """Leaving and joining in one turn of the loop leave somebody who looks."""
    await house.start("auth")
    hub, looked = house.board._watch.hub, house.store.asked
    one, two = (house.board._watch.stream(house.breakers) for _ in range(2))
    hub.join(one)
    await eventually(lambda: looked["read"] >= 1, "a look")
    hub.leave(one)
    hub.join(two)
    before = looked["read"]
    await eventually(lambda: looked["read"] > before + 1, "looks for the next one")
    hub.leave(two)


async def trip_again(house: House) -> None:
    """Make one more transition."""
    await house.breakers.get("auth").override(None, author="ann", reason="again")


async def test_a_crowd_costs_no_more_than_one(house: House) -> None:
    """Thirty clients that watch for ten looks cause ten looks, and one look at the details of an old epoch."""
    await house.start(*(f"b{number}" for number in range(8)))
    house.clock.advance(60)  # the epochs are old: nobody learns any more
    async with AsyncExitStack() as stack:
        started = time.monotonic()
        watchers = [await stack.enter_async_context(house.watcher()) for _ in range(30)]
        await eventually(lambda: house.store.asked["read"] >= 10, "ten looks")
        looks = house.store.asked["read"]
        assert looks <= (time.monotonic() - started) / 0.05 + 2
        assert len(watchers[0].events) <= looks + 4
        assert house.store.asked == {"read": looks, "history": 8, "fleet": 8}


async def test_members_are_asked_for_while_they_learn(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the seconds after a transition members are asked for at every look, later every ten seconds."""
    await house.start("auth")
    house.clock.advance(60)
    async with house.watcher() as watcher:
        await eventually(lambda: house.store.asked["read"] >= 3, "looks")
        assert house.store.asked["fleet"] == 1
        await trip(house.breakers.get("auth"))
        await until(watcher, "auth", "state", lambda state: state == "OPEN")
        before = house.store.asked.copy()
        await eventually(lambda: house.store.asked["read"] >= before["read"] + 4, "looks")
        assert house.store.asked["fleet"] >= before["fleet"] + 3
        assert house.store.asked["history"] == 2
        assert house.store.counts == [500, 1], "of the second transition only what is new"
        house.clock.advance(6)
        before = house.store.asked.copy()
        await eventually(lambda: house.store.asked["read"] >= before["read"] + 4, "looks")
        assert house.store.asked["fleet"] <= before["fleet"] + 1
        monkeypatch.setattr(_fleet, "_MEMBERS", 0.0)
        before = house.store.asked.copy()
        await eventually(lambda: house.store.asked["fleet"] > before["fleet"], "another look at the members")


async def test_what_takes_long_waits_for_the_next_look(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the details of many breakers take their time, those that are left come with a later look."""
    monkeypatch.setattr(_fleet, "_PATIENCE", -1.0)
    await house.start("auth")
    async with house.watcher() as watcher:
        await eventually(lambda: house.store.asked["read"] >= 2, "looks")
        assert house.store.asked["fleet"] == 0
        monkeypatch.setattr(_fleet, "_PATIENCE", 0.5)
        await until(watcher, "auth", "replicas", bool)


async def test_a_store_that_is_away_is_said_and_asked_again(house: House) -> None:
    """Without the store the page says so and shows what this replica knows; the console does not make it local."""
    await house.start("auth")
    async with house.watcher() as watcher:
        await until(watcher, "auth", "replicas", bool)
        house.store.away = True
        await eventually(lambda: not watcher.events[-1]["data"]["answers"], "the page to be told")
        assert not house.breakers.local
        house.store.away = False
        await eventually(lambda: watcher.events[-1]["data"]["answers"], "the store to be back")


async def test_an_open_circuit_that_others_use_stays_open_without_the_store(redis_url: str, prefix: str) -> None:
    """What the fleet said last of a breaker not used here is shown on; its counts are not, as they are old."""
    store, others = (RedisStore.from_url(redis_url, prefix=prefix) for _ in range(2))
    async with (
        Breakers(store, replica="r1", store_budget=PATIENCE) as breakers,
        Breakers(others, replica="r2", store_budget=PATIENCE) as theirs,
    ):
        await trip(theirs.get("auth", POLICY))
        await eventually(lambda: theirs.get("auth").state == State.OPEN, "the circuit to open")
        breakers.get("auth", POLICY)
        (circuit,), fleet = breakers.circuits(), Fleet()
        await fleet.look([circuit])
        circuit.replica.line.down = True
        await fleet.look([circuit])
        said = parts(breakers.get("auth"), fleet.views["auth"], circuit.replica.line.now(), answers=fleet.answers)
    assert (fleet.answers, said["state"], said["used"], said["local"]) == (False, "OPEN", False, True)
    assert said["held"]["replica"] == "r2"
    assert 0 < said["remaining"] <= 30


async def test_what_cannot_be_read_stops_no_page(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over what it cannot read the console goes on with what this replica knows, says so, and logs it once."""
    await house.start("auth")
    async with house.watcher() as watcher:
        await until(watcher, "auth", "replicas", bool)
        with monkeypatch.context() as broken:
            broken.setattr(house.store, "read", lambda _: 1 / 0)
            await eventually(lambda: not watcher.events[-1]["data"]["answers"], "the page to be told")
            seen = len(watcher.events)
            await eventually(lambda: len(watcher.events) > seen + 2, "it to go on")
            found = [record.levelname for record in caplog.records if "the console cannot" in record.message]
            assert found == ["ERROR"]
        await eventually(lambda: watcher.events[-1]["data"]["answers"], "it to read again")


async def test_in_local_mode_nothing_is_asked(house: House) -> None:
    """While the replica decides alone the console leaves the store to those who look for it."""
    operations = Operations()
    await house.start("auth", listeners=[operations])
    async with house.watcher() as watcher:
        await until(watcher, "auth", "replicas", bool)
        circuit = house.breakers.circuits()[0]
        circuit.replica.line.down = True
        circuit.knowledge.go_local()
        await until(watcher, "auth", "local", lambda local: local is True)
        operations.seen.clear()
        seen = len(watcher.events)
        await eventually(lambda: len(watcher.events) > seen + 3, "some looks")
        assert operations.seen["read"] + operations.seen["fleet"] + operations.seen["history"] == 0
        assert not watcher.events[-1]["data"]["answers"]
        assert known(watcher, "auth")["made"][-1]["number"] == 0


async def test_of_the_past_the_last_hour_is_kept() -> None:
    """Transitions of an hour ago are forgotten, as are those beyond the bound, the oldest first."""
    fleet = Fleet()

    def one(number: int, since: float) -> dict[str, Any]:
        return {"epoch": f"a.{number}.b", "number": number, "since": since, "state": "OPEN", "reason": "tripped"}

    fleet.add("auth", [one(number, 1000 + number) for number in range(10)], since=1003, most=500)
    assert [each["number"] for each in fleet.past["auth"].values()] == list(range(3, 10))
    fleet.add("auth", [one(12, 1012), one(11, 1012)], since=1003, most=4)
    assert [each["number"] for each in fleet.past["auth"].values()] == [8, 9, 11, 12]
    assert set(fleet.news["auth"]) == {f"a.{number}.b" for number in (*range(3, 10), 11, 12)}
    fleet.news.clear()
    fleet.add("auth", [one(12, 1012)], since=1003)
    assert fleet.news["auth"] == {}, "what is known is no news"


async def test_the_fleet_is_shown_as_the_store_has_it(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members with their lag, the past with its notes, counts of all; also of a breaker not used here."""
    monkeypatch.setattr(_watch, "_EVERY", 0.05)
    board = BreakerRoutes()
    async with (
        Breakers(
            RedisStore.from_url(redis_url, prefix=prefix), listeners=[board], replica="r1", store_budget=PATIENCE
        ) as breakers,
        Breakers(RedisStore.from_url(redis_url, prefix=prefix), replica="r2", store_budget=PATIENCE) as others,
    ):
        policy = Policy(trip=FailureRate(0.5, minimum_calls=1), cooldown=Cooldown(30, jitter=0))
        mine, other = breakers.get("auth", policy), others.get("auth", policy)
        async with Watcher(Site(board, breakers), "/console/events") as watcher:
            auth = (await watcher.next())["data"]["breakers"]["auth"]
            assert (auth["state"], auth["held"], auth["used"]) == ("CLOSED", None, False)
            async with other:
                pass
            await trip(other)
            await until(watcher, "auth", "state", lambda state: state == "OPEN")
            assert not known(watcher, "auth")["used"]
            assert 25 < known(watcher, "auth")["remaining"] <= 30
            await until(watcher, "auth", "replicas", lambda found: set(found or ()) == {"r1", "r2"})
            await other.override(None, author="ann", reason="over")
            async with mine:
                pass
            await until(watcher, "auth", "used", bool)
            await until(watcher, "auth", "made", lambda made: made[-1].get("note") == "ann: over")
            for _ in range(3):
                async with other:
                    pass
            await others.flush()
            await until(watcher, "auth", "gauges", lambda said: said[0]["text"].startswith("0 of 4 calls failed"))
            reasons = {one["number"]: one["reason"] for one in known(watcher, "auth")["made"]}
    assert reasons == {0: "seed", 1: "tripped", 2: "override"}


# -- what is said of a policy


@dataclass(frozen=True)
class Own:
    """A strategy of a user's own."""

    by: int

    def trips(self, counts: Counts) -> bool:
        """Never."""
        return counts.calls < 0


COUNTS = Counts(calls=20, failures=6, slow=4, streak=2, run=1)
RATE, IN_A_ROW = FailureRate(0.5, minimum_calls=20), ConsecutiveFailures(5)
SAID = "6 of 20 calls failed in 10 s, opens at 50 % of at least 20"


@pytest.mark.parametrize(
    ("trip_", "said"),
    [
        (RATE, [(SAID, 0.6)]),
        (FailureRate(0.1, minimum_calls=40), [("6 of 20 calls failed in 10 s, opens at 10 % of at least 40", 0.5)]),
        (IN_A_ROW, [("2 failures in a row, opens at 5", 0.4)]),
        (FailureCount(3), [("6 failures in 10 s, opens at 3", 1.0)]),
        (SlowCallRate(0.4, 1.5, 10), [("4 of 20 calls took over 1.5 s in 10 s, opens at 40 % of at least 10", 0.5)]),
        (AnyOf(RATE, AllOf(IN_A_ROW)), [(SAID, 0.6), ("2 failures in a row, opens at 5", 0.4)]),
        (Own(3), [("6 of 20 calls failed in 10 s, opens by Own(by=3)", None)]),
    ],
)
def test_a_policy_says_how_near_it_is(trip_: Trip, said: list[tuple[str, float | None]]) -> None:
    """Each strategy is said in words with its counts and its threshold, and as a share of the way."""
    found = gauges(Policy(trip=trip_), COUNTS)
    assert [(one["text"], one["share"]) for one in found] == said


async def test_what_the_store_said_of_another_epoch_is_left_out(house: House) -> None:
    """Counts belong to an epoch: those of the one before are not shown beside the new state."""
    await house.start("auth")
    async with house.watcher() as watcher:
        await until(watcher, "auth", "gauges", lambda said: said[0]["text"].startswith("0 failures"))
        fleet = house.board._watch._fleet
        held = house.breakers.get("auth").snapshot.transition
        assert held
        other = Transition(epoch=Epoch("a", 99, "b"), state=State.OPEN, since=held.since)
        view = View(status="ok", transition=other, now=held.since, counts=Counts(9, 9, 9, 9, 9), in_flight=3)
        fleet.views["auth"] = view
        assert set(house.board._watch._changes().get("auth") or ()) <= {"totals"}
