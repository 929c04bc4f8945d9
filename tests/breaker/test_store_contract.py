"""The store contract: what the memory store promises, Redis promises, wherever it runs.

Times are the store's own: a test waits until they have passed, never for a while and a hope.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

import pytest

from commontrip import Counts, MemoryStore, Override, State, Store
from commontrip._transition import Epoch, parse
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller, Ears, epoch, mint, record, run
from tests.support.cluster import Cluster
from tests.support.sentinel import SentinelPair
from tests.support.servers import Server
from tests.support.waiting import eventually

Another = Callable[[], Awaitable[tuple[Store, Ears]]]


@pytest.fixture(scope="module")
def sentinel() -> Iterator[SentinelPair]:
    """A pair that all tests of this module share."""
    with SentinelPair() as pair:
        yield pair


class ReadContract:
    """What `read` and `look` promise."""

    async def test_a_read_makes_nothing(self, caller: Caller) -> None:
        """Reading a breaker that is not there says so, and it is still not there."""
        seen = await caller.read()
        assert (seen.status, seen.transition) == ("missing", None)
        assert await caller.store.look(["auth"]) == [("", "")]

    async def test_a_seed_is_closed_and_number_0(self, caller: Caller) -> None:
        """A breaker begins CLOSED at number 0, in an incarnation of its own."""
        made = await caller.read(seed=True)
        assert made.status == "new"
        assert made.transition is not None
        assert made.transition.is_seed
        assert made.transition.state is State.CLOSED
        assert made.transition.reason == "seed"
        assert made.transition.replica == "r1"
        assert made.transition.since == pytest.approx(made.now, abs=0.002)

    async def test_a_second_seed_finds_the_first(self, caller: Caller) -> None:
        """Of two replicas that begin, the second takes what the first has made."""
        first = await caller.seed()
        found = await caller.read(seed=True)
        assert (found.status, epoch(found)) == ("ok", first)

    async def test_seeds_at_once_make_one_breaker(self, caller: Caller) -> None:
        """Of many replicas that begin at once, one makes the breaker."""
        views = await asyncio.gather(*(caller.read(seed=True) for _ in range(16)))
        assert sorted(view.status for view in views) == ["new"] + 15 * ["ok"]
        assert len({epoch(view) for view in views}) == 1

    async def test_many_are_read_in_one_request(self, store: Store) -> None:
        """However many breakers are asked for at once, the answers come in their order."""
        callers = [Caller(store, f"host-{n}") for n in range(45)]
        for caller in callers[::2]:
            await caller.seed()
        views = await store.read([caller.ask() for caller in callers])
        assert [view.status for view in views] == 22 * ["ok", "missing"] + ["ok"]
        epochs = [await caller.epoch() for caller in callers]
        assert [epoch(view) for view in views] == epochs

    async def test_a_read_says_what_is_counted(self, caller: Caller) -> None:
        """A read answers with the counts, as the last record did."""
        await caller.seed()
        recorded = await caller.record(run("fsff", slow=2))
        assert (await caller.read()).counts == recorded.counts == Counts(4, 3, 2, 2, 2)

    async def test_a_short_look_back_hides_nothing_from_a_long_one(self, caller: Caller) -> None:
        """Reading with a short window takes nothing from those who look back further."""
        await caller.seed()
        recorded = await caller.record("fff")
        await caller.past(recorded.now + 0.05)
        assert (await caller.read(window=0.05)).counts == Counts()
        assert (await caller.read()).counts == Counts(3, 3, 0, 3, 3)

    async def test_a_read_says_who_is_in_flight(self, caller: Caller) -> None:
        """A read counts the probes that hold a place, not those whose lease has run out."""
        await caller.seed()
        await caller.half_open("brief", seconds=0.02)
        held = await caller.lease("long")
        assert (await caller.read()).in_flight >= 1
        await caller.past(held.now + 0.02)
        assert (await caller.read()).in_flight == 1

    async def test_a_look_says_state_and_record(self, store: Store) -> None:
        """A look answers for each breaker, in order, '' for one that is not there."""
        here, open_ = Caller(store, "here"), Caller(store, "open")
        seeded = await here.read(seed=True)
        await open_.seed()
        opened = await open_.open()
        found = await store.look(["open", "gone", "here"])
        assert found[1] == ("", "")
        assert [state for state, _ in found] == ["OPEN", "", "CLOSED"]
        assert found[0][1] == record(opened)
        assert found[2][1] == record(seeded)

    async def test_a_look_finds_what_was_made(self, caller: Caller) -> None:
        """The record that a look finds says the same, times and all, as was said to who made it."""
        await caller.seed()
        order = {"override": Override.FORCED_OPEN, "override_for": 9.8765432}
        for made in (await caller.open(1.23456789), await caller.open(1.23456789, **order)):
            assert parse(record(made)) == made.transition

    async def test_a_look_may_be_wide(self, caller: Caller) -> None:
        """A look at more breakers than fit in one request answers for all."""
        await caller.seed()
        names = [f"host-{n}" for n in range(501)]
        found = await caller.store.look([*names, "auth"])
        assert found[:-1] == 501 * [("", "")]
        assert found[-1][0] == "CLOSED"


class RecordContract:
    """What `record` promises."""

    async def test_outcomes_are_counted(self, caller: Caller) -> None:
        """What a batch holds is in the answer to it."""
        await caller.seed()
        view = await caller.record(run("sffsf", slow=2))
        assert view.status == "ok"
        assert view.counts == Counts(calls=5, failures=3, slow=2, streak=2, run=1)

    async def test_batches_add_up_over_replicas(self, caller: Caller, store: Store) -> None:
        """Batches of two replicas add up, also when they carry the same number."""
        await caller.seed()
        await caller.record("fs", number=1)
        view = await Caller(store, replica="r2").record("ff", number=1)
        assert view.status == "ok"
        assert (view.counts.calls, view.counts.failures) == (4, 3)

    async def test_a_repeated_batch_is_counted_once(self, caller: Caller) -> None:
        """A batch that is sent again is known by its number; the answer holds what is counted."""
        at = await caller.seed()
        first = await caller.record("ff", epoch=at, number=7)
        again = await caller.record("ff", epoch=at, number=7)
        older = await caller.record("ff", epoch=at, number=6)
        assert [view.status for view in (again, older)] == ["dup", "dup"]
        assert again.counts == older.counts == first.counts == Counts(2, 2, 0, 2, 2)

    async def test_a_batch_at_once_on_many_ways_is_counted_once(self, caller: Caller) -> None:
        """A batch that arrives many times at once is counted once."""
        at = await caller.seed()
        views = await asyncio.gather(*(caller.record("f", epoch=at, number=1) for _ in range(12)))
        assert sorted(view.status for view in views) == 11 * ["dup"] + ["ok"]
        assert (await caller.read()).counts.failures == 1

    async def test_a_late_batch_is_not_counted(self, caller: Caller) -> None:
        """A batch after its deadline counts nothing; one before it counts."""
        seeded = await caller.read(seed=True)
        late = await caller.record("f", deadline=seeded.now - 0.01)
        timely = await caller.record("ff", deadline=seeded.now + 60)
        assert (late.status, late.counts) == ("late", Counts())
        assert (timely.status, timely.counts.failures) == ("ok", 2)

    async def test_another_epoch_is_old(self, caller: Caller) -> None:
        """Outcomes of an earlier epoch are not counted in a later one (race 24)."""
        first = await caller.seed()
        await caller.record("f")
        await caller.open()
        closed = await caller.change(State.CLOSED)
        view = await caller.record("s", epoch=first)
        assert (view.status, view.transition) == ("old", closed.transition)
        assert (await caller.read()).counts == Counts()

    @pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN])
    async def test_only_a_closed_circuit_counts(self, caller: Caller, state: State) -> None:
        """Even of its own epoch, a circuit that is not CLOSED counts no batch."""
        await caller.seed()
        await caller.change(state, remaining=30.0, cooldown=30.0)
        assert (await caller.record("f")).status == "old"
        assert (await caller.read()).counts == Counts()

    async def test_a_disabled_circuit_counts_nothing_until_the_order_expires(self, caller: Caller) -> None:
        """Under DISABLED nothing counts; when the order has expired, outcomes count again."""
        await caller.seed()
        order = {"override": Override.DISABLED, "override_for": 0.1, "reason": "override"}
        ordered = await caller.change(State.CLOSED, **order)
        assert (await caller.record("f")).status == "old"
        assert ordered.transition is not None
        await caller.past(ordered.transition.override_until)
        assert (await caller.record("ff")).counts == Counts(2, 2, 0, 2, 2)

    async def test_an_observed_circuit_counts(self, caller: Caller) -> None:
        """Under OBSERVE everything counts."""
        await caller.seed()
        await caller.change(State.CLOSED, override=Override.OBSERVE, override_for=60.0)
        assert (await caller.record("ff")).counts.failures == 2

    async def test_a_missing_breaker_counts_nothing(self, caller: Caller) -> None:
        """A batch never makes a breaker (race 5)."""
        view = await caller.record("f", epoch="ab.0.cd")
        assert (view.status, view.transition) == ("missing", None)
        assert await caller.store.look(["auth"]) == [("", "")]

    async def test_a_window_ages(self, caller: Caller) -> None:
        """What is older than the window is not counted any more."""
        await caller.seed()
        first = await caller.record("ff", window=0.1)
        assert first.counts.failures == 2
        await caller.past(first.now + 0.1)
        assert (await caller.read(window=0.1)).counts == Counts()
        assert (await caller.record("f", window=0.1)).counts == Counts(1, 1, 0, 1, 1)

    async def test_windows_of_two_lengths_live_together(self, caller: Caller) -> None:
        """Two replicas with different windows each see what is within their own."""
        await caller.seed()
        first = await caller.record("fss", window=60.0)
        await caller.past(first.now + 0.1)
        brief = await caller.record("fs", window=0.1)
        assert (brief.counts.calls, brief.counts.failures) == (2, 1)
        long = await caller.record("s", window=60.0)
        assert (long.counts.calls, long.counts.failures) == (6, 2)

    async def test_a_long_window_after_a_short_one_loses_nothing_young(self, caller: Caller) -> None:
        """A replica with a longer window joins, and what is young enough is still there."""
        await caller.seed()
        first = await caller.record("fs", window=5.0)
        await caller.past(first.now + 0.02)
        view = await caller.record("fs", window=60.0)
        assert (view.counts.calls, view.counts.failures) == (4, 2)

    async def test_a_window_ends_at_its_edge(self, caller: Caller) -> None:
        """What is younger than the window counts, what is older does not, to a tenth of it."""
        await caller.seed()
        window, made = 0.5, []
        for _ in range(12):
            made.append(await caller.record("f", window=window))
            await caller.past(made[-1].now + window / 10)
        last = made[-1]
        surely = sum(view.now > last.now - 0.9 * window for view in made)
        perhaps = sum(view.now > last.now - window for view in made)
        assert surely <= last.counts.failures <= perhaps < 12

    async def test_a_fine_window_blurs_no_coarse_one(self, caller: Caller) -> None:
        """Batches of a replica with a short window are all counted by one with a long window."""
        await caller.seed()
        await caller.record("fs", window=60.0)
        for _ in range(5):
            view = await caller.record("fs", window=0.1)
            await caller.past(view.now + 0.01)
        assert (await caller.read(window=60.0)).counts.calls == 12

    async def test_a_success_hides_no_streak(self, caller: Caller) -> None:
        """The longest streak outlives a later success (race 26)."""
        await caller.seed()
        await caller.record("ffff")
        view = await caller.record("sf")
        assert (view.counts.streak, view.counts.run) == (4, 1)

    async def test_a_streak_spans_batches(self, caller: Caller) -> None:
        """A run of failures goes on from batch to batch, whoever sends them."""
        await caller.seed()
        await caller.record("sff")
        await caller.record("ff")
        view = await caller.record("fsf")
        assert (view.counts.streak, view.counts.run) == (5, 1)

    async def test_streaks_equal_the_one_by_one_count(self, caller: Caller) -> None:
        """Batches give the streak that counting one call after another gives (race 25)."""
        await caller.seed()
        random_ = random.Random(25)
        calls = "".join(random_.choices("fs", (3, 1), k=200))
        rest, view = calls, None
        while rest:
            size = random_.randint(1, 9)
            view = await caller.record(rest[:size])
            rest = rest[size:]
        assert view is not None
        streaks = [len(streak) for streak in calls.split("s")]
        assert (view.counts.streak, view.counts.run) == (max(streaks), streaks[-1])

    async def test_a_silent_window_ends_a_run(self, caller: Caller) -> None:
        """After a window in which nothing was counted, a streak begins anew."""
        await caller.seed()
        first = await caller.record("fff", window=0.1)
        await caller.past(first.now + 0.1)
        view = await caller.record("f", window=0.1)
        assert (view.counts.streak, view.counts.run) == (1, 1)

    async def test_a_peak_ends_with_its_window(self, caller: Caller) -> None:
        """A streak that has ended is shown for one window and no longer."""
        await caller.seed()
        await caller.record("fff", window=0.2)
        view = ended = await caller.record("s", window=0.2)
        while view.now <= ended.now + 0.201:  # something is counted all the time
            view = await caller.record("fs", window=0.2)
            await asyncio.sleep(0.01)
        assert view.counts.streak == 1

    async def test_retry_after_is_kept_for_the_fleet(self, caller: Caller) -> None:
        """The longest Retry-After holds, runs down, and is told to whoever asks."""
        await caller.seed()
        asked = await caller.record(run("f", retry_after=40.0))
        view = await caller.record(run("f", retry_after=10.0))
        assert asked.retry_after == pytest.approx(40.0, abs=0.001)
        assert view.retry_after == pytest.approx(40.0 - (view.now - asked.now), abs=0.003)
        assert (await caller.read()).retry_after <= view.retry_after

    async def test_retry_after_ends_with_the_epoch(self, caller: Caller) -> None:
        """What the dependency asked for in one epoch says nothing of the next."""
        await caller.seed()
        await caller.record(run("f", retry_after=40.0))
        await caller.change(State.CLOSED)
        assert (await caller.record("f")).retry_after == 0.0

    async def test_a_transition_empties_the_window(self, caller: Caller) -> None:
        """Counts belong to one epoch; the next begins with none."""
        await caller.seed()
        await caller.record("fff")
        await caller.change(State.CLOSED)
        assert (await caller.read()).counts == Counts()
        assert (await caller.record("f")).counts == Counts(1, 1, 0, 1, 1)

    async def test_an_empty_batch_asks_for_the_counts(self, caller: Caller) -> None:
        """A batch without outcomes adds nothing and is answered."""
        await caller.seed()
        before = await caller.record("ff")
        view = await caller.record("")
        assert (view.status, view.counts) == ("ok", before.counts)

    async def test_batches_of_many_breakers_go_in_one_request(self, store: Store) -> None:
        """However many batches are sent at once, each is answered in its place."""
        callers = [Caller(store, f"host-{n}") for n in range(23)]
        for caller in callers[:-1]:
            await caller.seed()
        at = [await caller.epoch() or "ab.0.cd" for caller in callers]
        at[3] = "ab.0.cd"
        batches = [
            caller.batch((n % 5) * "f" + "s", epoch=epoch)
            for n, (caller, epoch) in enumerate(zip(callers, at, strict=True))
        ]
        views = await store.record(batches)
        assert [n for n, view in enumerate(views) if view.status != "ok"] == [3, 22]
        assert (views[3].status, views[22].status) == ("old", "missing")
        counted = [view.counts.failures for n, view in enumerate(views) if n not in {3, 22}]
        assert counted == [n % 5 for n in range(22) if n != 3]


class TransitionContract:
    """What `transition` promises."""

    async def test_the_epoch_decides_who_wins(self, caller: Caller) -> None:
        """A transition is made if the epoch is the expected one, else nothing happens."""
        first = await caller.seed()
        won = await caller.open()
        lost = await caller.change(State.CLOSED, expected=first)
        assert (won.status, lost.status) == ("won", "lost")
        assert lost.transition == won.transition
        assert (await caller.read()).transition == won.transition

    async def test_of_many_one_wins(self, caller: Caller) -> None:
        """N replicas that decide at once make one transition."""
        first = await caller.seed()
        views = await asyncio.gather(*(caller.open(expected=first) for _ in range(16)))
        assert sorted(view.status for view in views) == 15 * ["lost"] + ["won"]
        assert len({epoch(view) for view in views}) == 1
        assert len(await caller.store.history("auth", 10)) == 2

    async def test_a_repeated_transition_is_won_again_and_made_once(self, caller: Caller) -> None:
        """Who asks again with the same token hears `won` again, and nothing new is made."""
        first, token = await caller.seed(), mint()
        won = await caller.open(expected=first, token=token)
        again = await caller.open(expected=first, token=token)
        assert (again.status, again.transition) == ("won", won.transition)
        assert len(await caller.store.history("auth", 10)) == 2

    async def test_a_transition_onto_nothing(self, caller: Caller) -> None:
        """Where there is nothing, only the expectation of nothing wins."""
        lost = await caller.open(expected="ab.0.cd")
        assert (lost.status, lost.transition) == ("lost", None)
        assert (await caller.open(expected="")).status == "won"
        assert (await caller.change(State.CLOSED, expected="")).status == "lost"

    @pytest.mark.parametrize("age", [-2.0, 2.0])
    async def test_old_facts_make_nothing(self, caller: Caller, age: float) -> None:
        """Facts more than a second away from the store's clock are stale (race 29)."""
        seeded = await caller.read(seed=True)
        view = await caller.open(decided_at=seeded.now + age)
        assert (view.status, view.transition) == ("stale", seeded.transition)
        assert (await caller.read()).transition == seeded.transition

    async def test_young_facts_count(self, caller: Caller) -> None:
        """Facts of this moment make a transition."""
        await caller.seed()
        at = await caller.epoch()
        now = (await caller.read()).now
        assert (await caller.open(expected=at, decided_at=now)).status == "won"

    async def test_the_number_rises_above_all_that_is_remembered(self, caller: Caller) -> None:
        """The number is one above the last, and above what the caller remembers (race 19)."""
        await caller.seed()
        one = await caller.open()
        ten = await caller.change(State.CLOSED, floor=9)
        eleven = await caller.open(floor=3)
        numbers = [Epoch.parse(epoch(view)).number for view in (one, ten, eleven)]
        assert numbers == [1, 10, 11]

    async def test_where_the_numbers_end_an_incarnation_begins(self, caller: Caller) -> None:
        """Above the largest number that a record can hold comes 1 of a new incarnation, and it goes on from there."""
        await caller.seed()
        last = await caller.change(State.CLOSED, floor=10**15 - 1)
        assert Epoch.parse(epoch(last)).number == 10**15
        first = await caller.open(token="cafe")
        assert epoch(first) == "cafe.1.cafe"
        assert epoch(await caller.change(State.CLOSED)).startswith("cafe.2.")

    async def test_no_transition_says_more_than_a_record_can_hold(self, caller: Caller) -> None:
        """However often in a row it has opened, the record can be read again."""
        await caller.seed()
        made = (await caller.open(opens=10**6 + 1)).transition
        assert made is not None
        assert made.opens == 10**6
        assert parse(made.record()).epoch == made.epoch

    async def test_an_incarnation_is_kept(self, caller: Caller) -> None:
        """A remembered incarnation goes on where there is nothing, else the one that is there."""
        made = await caller.open(expected="", incarnation="cafe", floor=4)
        assert epoch(made).startswith("cafe.5.")
        kept = await caller.change(State.CLOSED, incarnation="beef")
        assert epoch(kept).startswith("cafe.6.")

    async def test_a_transition_holds_what_it_was_given(self, caller: Caller) -> None:
        """Everything that is said of a transition can be read by everybody."""
        seeded = await caller.read(seed=True)
        won = await caller.open(
            20.0,
            cooldown=25.0,
            opens=3,
            failures=11,
            calls=17,
            error="TimeoutError",
            cause="00-ab-cd-01",
            replica="r9",
        )
        made = won.transition
        assert made is not None
        assert seeded.transition is not None
        assert (made.state, made.reason, made.replica) == (State.OPEN, "tripped", "r9")
        assert (made.opens, made.failures, made.calls) == (3, 11, 17)
        assert (made.error, made.cause) == ("TimeoutError", "00-ab-cd-01")
        assert made.previous == epoch(seeded)
        assert made.previous_state is State.CLOSED
        assert made.previous_since == pytest.approx(seeded.transition.since, abs=0.001)
        assert made.since == pytest.approx(won.now, abs=0.002)
        assert made.until == pytest.approx(made.since + 20.0, abs=0.002)
        assert made.cooldown == 25.0
        assert await caller.store.look(["auth"]) == [("OPEN", record(won))]

    async def test_a_transition_names_the_one_it_follows(self, caller: Caller) -> None:
        """A re-assertion follows what the caller remembers, not what it found."""
        await caller.seed()
        view = await caller.open(previous="cafe.7.beef", reason="reasserted")
        assert view.transition is not None
        assert view.transition.previous == "cafe.7.beef"

    async def test_a_closed_circuit_has_no_deadline(self, caller: Caller) -> None:
        """Only OPEN lasts until a moment."""
        await caller.seed()
        view = await caller.change(State.CLOSED, remaining=20.0)
        assert view.transition is not None
        assert view.transition.until == 0.0

    @pytest.mark.parametrize(
        ("order", "to"),
        [
            (Override.FORCED_OPEN, State.OPEN),
            (Override.DISABLED, State.CLOSED),
            (Override.OBSERVE, State.CLOSED),
        ],
    )
    async def test_an_order_is_part_of_the_transition(self, caller: Caller, order: Override, to: State) -> None:
        """An operator's order, its expiry and its note travel with the transition."""
        await caller.seed()
        view = await caller.change(
            to,
            reason="override",
            override=order,
            override_for=90.0,
            remaining=90.0,
            note="ann: tests the brakes",
        )
        assert view.transition is not None
        assert (view.transition.state, view.transition.override) == (to, order)
        assert view.transition.override_until == pytest.approx(view.now + 90.0, abs=0.003)
        assert view.transition.cooldown == 90.0
        assert (await caller.store.history("auth", 1)) == [(view.transition, "ann: tests the brakes")]

    async def test_an_order_ends_with_its_transition(self, caller: Caller) -> None:
        """The next transition carries no order unless it is given one."""
        await caller.seed()
        await caller.change(State.CLOSED, override=Override.OBSERVE, override_for=90.0)
        view = await caller.open()
        assert view.transition is not None
        assert (view.transition.override, view.transition.override_until) == (None, 0.0)


class LeaseContract:
    """What `lease` promises."""

    async def test_only_a_due_circuit_gives_places(self, caller: Caller) -> None:
        """There is no place in nothing, in CLOSED, and in OPEN before the cooldown is over."""
        assert (await caller.lease()).status == "missing"
        await caller.seed()
        assert (await caller.lease()).status == "closed"
        opened = await caller.open(30.0)
        early = await caller.lease()
        assert early.status == "open"
        assert early.transition == opened.transition

    async def test_the_first_to_ask_starts_the_round(self, caller: Caller) -> None:
        """After the cooldown the first to ask makes HALF_OPEN and has the first place."""
        await caller.seed()
        opened = await caller.open(0.02, opens=4, cooldown=7.0)
        assert opened.transition is not None
        await caller.past(opened.transition.until)
        token = mint()
        view = await caller.lease("l1", cause="00-ab-cd-01", replica="r3", token=token)
        made = view.transition
        assert (view.status, view.in_flight) == ("granted", 1)
        assert made is not None
        assert (made.state, made.reason, made.replica) == (
            State.HALF_OPEN,
            "cooldown_over",
            "r3",
        )
        assert (made.opens, made.cooldown, made.cause) == (4, 7.0, "00-ab-cd-01")
        assert (made.epoch.token, made.previous) == (token, epoch(opened))

    async def test_the_budget_is_the_fleets(self, caller: Caller) -> None:
        """In a round never more places are held than asked for by the policy."""
        await caller.seed()
        await caller.half_open("l0", probes=3)
        asked = [caller.lease(f"l{n}", probes=3) for n in range(1, 12)]
        views = await asyncio.gather(*asked)
        assert sorted(view.status for view in views) == 9 * ["full"] + 2 * ["granted"]
        assert (await caller.read()).in_flight == 3

    async def test_short_leases_shorten_no_long_ones(self, caller: Caller) -> None:
        """A replica with a shorter lease takes nothing from one with a longer."""
        await caller.seed()
        await caller.half_open("long", seconds=20.0, probes=1)
        refused = await caller.lease("short", seconds=0.02, probes=1)
        await caller.past(refused.now + 0.02)
        again = await caller.lease("short", seconds=0.02, probes=1)
        assert [(view.status, view.in_flight) for view in (refused, again)] == 2 * [("full", 1)]

    async def test_a_refusal_changes_nothing(self, caller: Caller) -> None:
        """A refused attempt makes no transition and takes no place."""
        await caller.seed()
        await caller.half_open("l1")
        await caller.lease("l2")
        before = (await caller.store.look(["auth"]), await caller.store.history("auth", 9))
        for _ in range(3):
            assert (await caller.lease(mint())).status == "full"
        assert before == (
            await caller.store.look(["auth"]),
            await caller.store.history("auth", 9),
        )
        assert (await caller.read()).in_flight == 2

    async def test_a_lease_is_renewed_under_its_own_id(self, caller: Caller) -> None:
        """Asking with a lease that one holds makes it last longer and takes no second place."""
        await caller.seed()
        await caller.half_open("l1", seconds=0.1)
        renewed = await caller.lease("l1", seconds=20.0)
        assert (renewed.status, renewed.in_flight) == ("granted", 1)
        await caller.past(renewed.now + 0.1)
        assert (await caller.read()).in_flight == 1

    async def test_a_full_round_renews(self, caller: Caller) -> None:
        """A held place is renewed even when no other is free."""
        await caller.seed()
        await caller.half_open("l1")
        await caller.lease("l2")
        assert [(await caller.lease(held)).status for held in ("l1", "l2")] == 2 * ["granted"]

    async def test_a_lease_runs_out(self, caller: Caller) -> None:
        """The place of a replica that was killed is free after its lease."""
        await caller.seed()
        held = await caller.half_open("killed", seconds=0.05, probes=1)
        assert (await caller.lease("next", probes=1)).status == "full"
        await caller.past(held.now + 0.05)
        taken = await caller.lease("next", probes=1)
        assert (taken.status, taken.in_flight) == ("granted", 1)

    async def test_leases_survive_a_transition(self, caller: Caller) -> None:
        """A probe of the last round that still runs fills a place in the next (race 37)."""
        await caller.seed()
        await caller.half_open("slow")
        again = await caller.half_open("l2")
        assert again.status == "granted"
        assert again.in_flight == 2
        assert (await caller.lease("l3")).status == "full"

    async def test_a_settled_probe_uses_its_place_up(self, caller: Caller) -> None:
        """What has settled and what is in flight are together within the budget."""
        await caller.seed()
        await caller.half_open("l1")
        await caller.settle("l1", "s")
        assert (await caller.lease("l2")).status == "granted"
        view = await caller.lease("l3")
        assert (view.status, view.succeeded, view.in_flight) == ("full", 1, 1)

    async def test_a_round_left_by_a_larger_policy_starts_anew(self, caller: Caller) -> None:
        """A round with more settled probes than a smaller policy plans is not stuck."""
        await caller.seed()
        await caller.half_open("l0", probes=5)
        for n in range(1, 3):
            await caller.lease(f"l{n}", probes=5)
        undecided = 36 * "."
        for n in range(3):
            await caller.settle(f"l{n}", "s", probes=5, grid=undecided)
        view = await caller.lease("smaller", probes=2)
        assert (view.status, view.succeeded, view.in_flight) == ("granted", 0, 1)

    async def test_a_running_probe_keeps_its_place(self, caller: Caller) -> None:
        """Who renews stays in its place: in a full round, and when the lease had run out but nobody came."""
        await caller.seed()
        held = await caller.half_open("l1", seconds=0.05)
        await caller.lease("l2", seconds=20.0)
        await caller.past(held.now + 0.05)
        again = await caller.lease("l1", seconds=20.0, renew=True)
        assert (again.status, again.in_flight) == ("granted", 2)
        renewed = await caller.lease("l1", seconds=20.0, renew=True)
        assert (renewed.status, renewed.in_flight) == ("granted", 2)
        assert (await caller.settle("l1", "s")).status == "counted"

    async def test_a_running_probe_that_lost_its_place_still_fills_one(self, caller: Caller) -> None:
        """Whose place has gone to another is still at the dependency: it fills a place, and no longer counts."""
        await caller.seed()
        held = await caller.half_open("slow", seconds=0.05, probes=1)
        await caller.past(held.now + 0.05)
        await caller.lease("next", seconds=20.0, probes=1)
        for _ in range(2):
            view = await caller.lease("slow", seconds=20.0, probes=1, renew=True)
            assert (view.status, view.in_flight) == ("granted", 2)
        ended = await caller.settle("slow", "f", probes=1, grid=".oc.")
        assert (ended.status, ended.failed, ended.in_flight) == ("gone", 0, 1)
        assert ended.transition == view.transition

    @pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
    async def test_a_running_probe_renews_in_any_state(self, caller: Caller, state: State) -> None:
        """A probe that outlasts its round keeps its place, and starts no round by that."""
        await caller.seed()
        await caller.half_open("slow", seconds=0.05)
        moved = await caller.change(state, remaining=0.001, cooldown=30.0)
        await caller.past(moved.now + 0.01)
        view = await caller.lease("slow", seconds=20.0, renew=True)
        assert (view.status, view.transition) == (state.lower(), moved.transition)
        await caller.past(moved.now + 0.05)
        assert (await caller.half_open("l2")).in_flight == 2

    async def test_a_probe_of_nothing_renews_nothing(self, caller: Caller) -> None:
        """Renewing never makes a breaker."""
        assert (await caller.lease("slow", renew=True)).status == "missing"
        assert await caller.store.look(["auth"]) == [("", "")]


class SettleContract:
    """What `settle` promises."""

    @pytest.mark.parametrize(("kind", "tally"), [("s", (1, 0)), ("f", (0, 1)), ("n", (0, 0))])
    async def test_a_probe_is_counted_as_it_went(self, caller: Caller, kind: str, tally: tuple[int, int]) -> None:
        """Success and failure are counted, neutral is not; the place is given back."""
        await caller.seed()
        await caller.half_open("l1", probes=3)
        view = await caller.settle("l1", kind, probes=3, grid=16 * ".")
        assert view.status == "counted"
        assert (view.succeeded, view.failed, view.in_flight) == (*tally, 0)

    async def test_a_neutral_place_can_be_had_again(self, caller: Caller) -> None:
        """The place of a cancelled probe is free at once."""
        await caller.seed()
        await caller.half_open("l1", probes=1)
        assert (await caller.lease("l2", probes=1)).status == "full"
        await caller.settle("l1", "n")
        assert (await caller.lease("l2", probes=1)).status == "granted"

    async def test_a_neutral_probe_decides_nothing(self, caller: Caller) -> None:
        """A neutral probe ends no round, whatever the grid says."""
        await caller.seed()
        await caller.half_open("l1")
        view = await caller.settle("l1", "n", grid=9 * "c")
        assert view.transition is not None
        assert view.transition.state is State.HALF_OPEN

    async def test_only_a_held_lease_counts(self, caller: Caller) -> None:
        """An unknown lease, and one settled before, count nothing."""
        await caller.seed()
        await caller.half_open("l1")
        await caller.settle("l1", "s")
        again, unknown = await caller.settle("l1", "s"), await caller.settle("never", "f")
        assert (again.status, unknown.status) == ("gone", "gone")
        assert (unknown.succeeded, unknown.failed) == (1, 0)

    async def test_a_lease_that_ran_out_does_not_count(self, caller: Caller) -> None:
        """A probe whose place went to another is not counted (race 8)."""
        await caller.seed()
        held = await caller.half_open("slow", seconds=0.05, probes=1)
        await caller.past(held.now + 0.05)
        await caller.lease("next", probes=1)
        view = await caller.settle("slow", "f", probes=1, grid=".oc.")
        assert (view.status, view.failed, view.in_flight) == ("gone", 0, 1)

    async def test_a_probe_of_another_round_frees_its_place_only(self, caller: Caller) -> None:
        """A probe of an earlier round gives its place back and counts in no other."""
        await caller.seed()
        first = epoch(await caller.half_open("slow"))
        await caller.half_open("l2")
        view = await caller.settle("slow", "f", epoch=first)
        assert (view.status, view.failed) == ("old", 0)
        assert (await caller.read()).in_flight == 1
        assert (await caller.settle("slow", "f", epoch=first)).status == "gone"

    async def test_a_probe_of_a_circuit_that_closed_counts_nothing(self, caller: Caller) -> None:
        """A probe that ends after the round is over changes nothing."""
        await caller.seed()
        round_ = epoch(await caller.half_open("slow"))
        closed = await caller.change(State.CLOSED)
        view = await caller.settle("slow", "f", epoch=round_)
        assert (view.status, view.transition) == ("old", closed.transition)

    async def test_a_missing_breaker(self, caller: Caller) -> None:
        """Settling never makes a breaker."""
        view = await caller.settle("l1", epoch="ab.0.cd")
        assert (view.status, view.transition) == ("missing", None)
        assert await caller.store.look(["auth"]) == [("", "")]

    async def test_the_grid_closes(self, caller: Caller) -> None:
        """The outcome at which the grid says `c` closes the circuit in the same step."""
        await caller.seed()
        await caller.half_open("l1")
        await caller.lease("l2")
        on = await caller.settle("l1", "s")
        assert on.transition is not None
        assert on.transition.state is State.HALF_OPEN
        view = await caller.settle("l2", "s", cause="00-ab-cd-01", error="Any")
        made = view.transition
        assert made is not None
        assert (made.state, made.reason) == (State.CLOSED, "probes_succeeded")
        assert (made.opens, made.cooldown, made.until) == (0, 0.0, 0.0)
        assert (made.failures, made.calls, made.error, made.cause) == (0, 2, "", "00-ab-cd-01")

    async def test_the_grid_opens_again(self, caller: Caller) -> None:
        """The outcome at which the grid says `o` opens again, for the cooldown that was sent."""
        await caller.seed()
        await caller.half_open("l1")
        view = await caller.settle("l1", "f", cooldown=44.0, opens=3, error="TimeoutError")
        made = view.transition
        assert view.status == "counted"
        assert made is not None
        assert (made.state, made.reason) == (State.OPEN, "probes_failed")
        assert (made.opens, made.cooldown, made.error) == (3, 44.0, "TimeoutError")
        assert made.until == pytest.approx(view.now + 44.0, abs=0.003)
        assert (made.failures, made.calls) == (1, 1)

    async def test_the_last_of_several_decides(self, caller: Caller) -> None:
        """Probes that end at once make one transition between them."""
        await caller.seed()
        round_ = epoch(await caller.half_open("l1"))
        await caller.lease("l2")
        before = len(await caller.store.history("auth", 99))
        views = await asyncio.gather(*(caller.settle(lease, "s", epoch=round_) for lease in ("l1", "l2")))
        assert {view.status for view in views} == {"counted"}
        assert len(await caller.store.history("auth", 99)) == before + 1
        assert (await caller.store.look(["auth"]))[0][0] == "CLOSED"

    async def test_a_repeated_settlement_that_ended_the_round(self, caller: Caller) -> None:
        """Who asks again after it ended the round hears `counted`; nothing new is made (race 9)."""
        await caller.seed()
        round_, token = epoch(await caller.half_open("l1")), mint()
        first = await caller.settle("l1", "f", epoch=round_, token=token)
        again = await caller.settle("l1", "f", epoch=round_, token=token)
        assert (again.status, again.transition) == ("counted", first.transition)
        assert len(await caller.store.history("auth", 99)) == 4

    async def test_more_has_settled_than_the_policy_plans(self, caller: Caller) -> None:
        """A replica with a smaller policy finds its verdict at the edge of its grid."""
        await caller.seed()
        await caller.half_open("l0", probes=5)
        for n in range(1, 4):
            await caller.lease(f"l{n}", probes=5)
        for n in range(3):
            await caller.settle(f"l{n}", "s", probes=5, grid=36 * ".")
        view = await caller.settle("l3", "s")
        assert view.transition is not None
        assert view.transition.state is State.CLOSED


class FleetContract:
    """What `history`, `presence`, `learned`, `fleet` and listening promise."""

    async def test_history_is_newest_first(self, caller: Caller) -> None:
        """History tells the last transitions, the newest first, each with its note."""
        seeded = await caller.read(seed=True)
        opened = await caller.open(note="ann: looks bad, really")
        closed = await caller.change(State.CLOSED)
        assert await caller.store.history("auth", 9) == [
            (closed.transition, ""),
            (opened.transition, "ann: looks bad, really"),
            (seeded.transition, ""),
        ]
        assert await caller.store.history("auth", 1) == [(closed.transition, "")]

    async def test_there_is_no_history_of_nothing(self, store: Store) -> None:
        """A breaker that is not there has no history."""
        assert await store.history("nobody", 10) == []

    async def test_history_is_bounded(self, small: Store) -> None:
        """Of many transitions about as many are kept as were asked for, the newest."""
        caller = Caller(small)
        at = await caller.seed()
        for n in range(230):
            at = epoch(await caller.change(State.CLOSED, expected=at, calls=n))
        kept = [made.calls for made, _ in await small.history("auth", 1000)]
        assert kept == list(range(229, 229 - len(kept), -1))
        assert 10 <= len(kept) <= 110

    async def test_a_fleet_is_who_is_present(self, store: Store) -> None:
        """Presence counts those who have said that they are there."""
        assert await store.presence("r1", 30.0) == 1
        assert await store.presence("r2", 30.0) == 2
        assert await store.presence("r1", 30.0) == 2
        assert await store.presence("r2", 0.0) == 1
        assert await store.fleet("auth") == {"r1": None}

    async def test_the_silent_are_forgotten(self, store: Store) -> None:
        """A replica that says nothing more is gone when its time is over."""
        await store.presence("killed", 0.05)
        caller = Caller(store)
        await caller.past((await caller.read()).now + 0.05)
        assert await store.presence("r1", 30.0) == 1
        assert await store.fleet("auth") == {"r1": None}

    async def test_the_silent_are_not_named(self, store: Store) -> None:
        """A replica whose time is over is not in the fleet, also when nobody is left to forget it."""
        await store.presence("r1", 30.0)
        await store.presence("killed", 0.05)
        caller = Caller(store)
        await caller.past((await caller.read()).now + 0.05)
        assert await store.fleet("auth") == {"r1": None}

    async def test_who_has_learned_of_the_epoch(self, caller: Caller, store: Store) -> None:
        """The fleet says how late each replica learned of the current epoch."""
        await caller.seed()
        at = epoch(await caller.open())
        for replica in ("r1", "r2", "r3"):
            await store.presence(replica, 30.0)
        await store.learned("auth", at, "r1", 0.0)
        await store.learned("auth", at, "r2", 0.012)
        assert await store.fleet("auth") == {"r1": 0.0, "r2": 0.012, "r3": None}

    async def test_a_new_epoch_is_learned_anew(self, caller: Caller, store: Store) -> None:
        """What was learned of an earlier epoch says nothing of this one."""
        first = await caller.seed()
        await store.presence("r2", 30.0)
        await store.learned("auth", first, "r2", 0.01)
        assert await store.fleet("auth") == {"r2": 0.01}
        await caller.open()
        await store.learned("auth", first, "r2", 0.02)
        assert await store.fleet("auth") == {"r2": None}

    async def test_the_maker_knows_at_once(self, caller: Caller, store: Store) -> None:
        """Who makes a transition has learned of it by that, whatever made it."""
        await store.presence("r1", 30.0)
        await caller.seed()
        assert await store.fleet("auth") == {"r1": 0.0}
        await caller.half_open("l1", replica="r2")
        assert await store.fleet("auth") == {"r1": None}
        await caller.settle("l1", "f")
        assert await store.fleet("auth") == {"r1": 0.0}

    async def test_nobody_learns_of_nothing(self, store: Store) -> None:
        """Learning of a breaker that is not there leaves no trace."""
        await store.learned("nobody", "ab.0.cd", "r1", 0.01)
        assert await store.fleet("nobody") == {}

    async def test_every_transition_is_heard(self, caller: Caller, ears: Ears) -> None:
        """Every transition is published once, whatever made it, in order."""
        await ears.listen()
        seeded = await caller.read(seed=True)
        granted = await caller.half_open("l1")
        reopened = await caller.settle("l1", "f")
        closed = await caller.change(State.CLOSED)
        await eventually(lambda: len(ears.heard) >= 5, "five transitions")
        await caller.store.presence("r1", 1.0)
        assert [name for name, _ in ears.heard] == 5 * ["auth"]
        heard = [line for _, line in ears.heard]
        assert parse(heard.pop(1)).state is State.OPEN
        assert heard == [record(view) for view in (seeded, granted, reopened, closed)]

    async def test_what_changes_nothing_is_not_heard(self, caller: Caller, ears: Ears) -> None:
        """Counting, refusals and lost decisions publish nothing."""
        await ears.listen()
        first = await caller.seed()
        await caller.record("ff")
        await caller.lease()
        await caller.change(State.CLOSED, expected="ab.0.cd")
        await caller.open(expected=first)
        await eventually(lambda: len(ears.heard) >= 2, "the two transitions")
        assert [parse(line).reason for _, line in ears.heard] == ["seed", "tripped"]

    async def test_a_gap_is_reported_when_listening_begins(self, another: Another) -> None:
        """Whoever begins to listen may have missed something, and is told so."""
        _, ears = await another()
        await ears.listen()
        assert (ears.gaps, ears.heard) == (1, [])

    async def test_all_stores_of_a_fleet_hear_and_see_the_same(self, caller: Caller, another: Another) -> None:
        """What one store writes, another of the same fleet reads and hears."""
        other, ears = await another()
        await ears.listen()
        first = await caller.seed()
        assert await Caller(other, replica="r2").epoch() == first
        await eventually(lambda: len(ears.heard) == 1, "the seed to be heard")


class StoreContract(ReadContract, RecordContract, TransitionContract, LeaseContract, SettleContract, FleetContract):
    """The whole contract; a kind of store says how its `store`, `small` and `another` are made."""

    @pytest.fixture
    def ears(self) -> Ears:
        """What `store` hears."""
        return Ears()

    @pytest.fixture
    def caller(self, store: Store) -> Caller:
        """A replica that uses the breaker `auth`."""
        return Caller(store)


class TestMemory(StoreContract):
    """In this process."""

    @pytest.fixture
    async def store(self, ears: Ears) -> AsyncIterator[Store]:
        """A store that listens."""
        store = MemoryStore()
        await store.start(ears.hear, ears.gap)
        yield store
        await store.aclose()

    @pytest.fixture
    def small(self) -> Store:
        """A store that keeps ten transitions."""
        return MemoryStore(history=10)

    @pytest.fixture
    def another(self, store: Store) -> Another:
        """Listen once more: a fleet in one process shares one store."""

        async def listen() -> tuple[Store, Ears]:
            ears = Ears()
            await store.start(ears.hear, ears.gap)
            return store, ears

        return listen

    async def test_a_clock_that_goes_back_lengthens_nothing(self) -> None:
        """What was written by a clock an hour ahead lasts no longer than it was meant to."""
        now = 7200.0
        store = MemoryStore(clock=lambda: now, ttl=60.0)
        caller = Caller(store)
        await caller.seed()
        await caller.record(run("f", retry_after=40.0))
        await store.presence("gone", 30.0)
        now -= 3600
        assert (await caller.read()).retry_after == 40
        assert (await caller.record("f")).retry_after == 40
        assert await store.presence("r1", 30.0) == 2
        now += 60
        assert (await caller.read()).retry_after == 0
        assert await store.fleet("auth") == {}


class RedisContract(StoreContract):
    """On a server; a kind of server says its `url`."""

    @pytest.fixture
    async def stores(self) -> AsyncIterator[list[RedisStore]]:
        """Collect the stores of a test, to close them."""
        made: list[RedisStore] = []
        yield made
        for store in made:
            await store.aclose()

    @pytest.fixture
    async def connected(self, url: str, prefix: str, ears: Ears, stores: list[RedisStore]) -> Store:
        """A store that listens."""
        stores.append(RedisStore.from_url(url, prefix=prefix))
        await stores[-1].start(ears.hear, ears.gap)
        return stores[-1]

    @pytest.fixture
    def store(self, connected: Store) -> Store:
        """The store that the contract is about."""
        return connected

    @pytest.fixture
    def small(self, url: str, prefix: str, stores: list[RedisStore]) -> Store:
        """A store that keeps about ten transitions."""
        stores.append(RedisStore.from_url(url, prefix=prefix, history=10))
        return stores[-1]

    @pytest.fixture
    def another(self, url: str, prefix: str, stores: list[RedisStore]) -> Another:
        """Make further stores on the same keys."""

        async def listen() -> tuple[Store, Ears]:
            ears = Ears()
            stores.append(RedisStore.from_url(url, prefix=prefix))
            await stores[-1].start(ears.hear, ears.gap)
            return stores[-1], ears

        return listen


class TestStandalone(RedisContract):
    """On one server."""

    @pytest.fixture
    def url(self, server: Server) -> str:
        """The address of the server that all tests share."""
        return server.url


class TestForgetful(TestStandalone):
    """On one server that has lost its scripts before every call (race 32)."""

    @pytest.fixture
    def store(self, connected: Store, server: Server) -> Store:
        """A store whose scripts are gone whenever it is asked."""
        return cast("Store", _Forgetful(connected, server))


class TestCluster(RedisContract):
    """On three nodes; each breaker's keys in one slot."""

    @pytest.fixture
    def url(self, cluster: Cluster) -> str:
        """The address of the cluster."""
        return cluster.url


class TestSentinel(RedisContract):
    """On whom the sentinels call the master."""

    @pytest.fixture
    def url(self, sentinel: SentinelPair) -> str:
        """The address of the sentinels."""
        return sentinel.url

    async def test_a_store_lives_through_a_failover(
        self, caller: Caller, ears: Ears, prefix: str, sentinel: SentinelPair
    ) -> None:
        """After a failover the same store finds what it wrote, goes on, and reports a gap."""
        await ears.listen()
        await caller.seed()
        opened = await caller.open()
        await asyncio.to_thread(sentinel.master.cli, "WAIT", 1, 5000)
        gaps = ears.gaps
        old = sentinel.master
        await asyncio.to_thread(old.kill)
        new = await asyncio.to_thread(sentinel.replaced, old)
        await eventually(lambda: ears.gaps > gaps, "the new subscription", within=20)
        assert (await caller.read()).transition == opened.transition
        assert (await caller.change(State.CLOSED)).status == "won"
        await eventually(lambda: len(ears.heard) == 3, "the transition on the new master")
        assert new.cli("GET", f"{prefix}:auth:state") == "CLOSED"


class _Forgetful:
    """A store before whose every request the server forgets all scripts."""

    def __init__(self, store: Store, server: Server) -> None:
        self._store = store
        self._server = server

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def ask(*words: object) -> object:
            self._server.cli("SCRIPT", "FLUSH")
            answer: object = await getattr(self._store, name)(*words)
            return answer

        return ask
