"""Races between epochs: old news changes nothing, whichever way and however late it comes."""

from dataclasses import replace

import pytest

from commontrip import ConsecutiveFailures, Outcome, Override, Snapshot, State
from tests.breaker.members import Join, Member, forget, joins, policy
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """Members of a fleet that opens at two failures in a row, for long."""
    return joins(redis_url, prefix, policy(ConsecutiveFailures(2)))


async def order(member: Member, *orders: Override | None) -> Snapshot:
    """Make transitions as an operator does."""
    for one in orders:
        seen = await member.breaker.override(one, author="test", reason="a race")
    return seen


async def agree(*members: Member) -> None:
    """Wait until all have applied the same epoch."""
    await eventually(lambda: len({member.epoch for member in members}) == 1, "all to see the same epoch")


async def test_race_05_an_empty_store_hears_of_no_closed_epoch(join: Join, server: Server, prefix: str) -> None:
    """Race 5: who remembers OPEN tells an empty store that, and nothing that it counted while CLOSED."""
    async with join() as a:
        running = [await a.breaker.admit() for _ in range(3)]
        await a.fail(2)
        await a.sees(State.OPEN)
        batches = a.store.count("record")
        opened = a.epoch
        forget(server, prefix)
        for call, outcome in zip(running, (Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE), strict=True):
            call.end(outcome)
        await a.insists(lambda: a.epoch != opened, "the verdict to be told again")
        assert a.breaker.state == State.OPEN
        assert a.store.count("record") == batches
        told = [(made.state, made.reason) for made, _ in await a.breaker.history()]
        assert told == [(State.OPEN, "reasserted")]


async def test_race_10_a_maker_that_was_never_told_knows_its_own(join: Join) -> None:
    """Race 10: when the replies to a transition are lost its maker still says, once, that it made it."""
    async with join() as a, join() as b:
        await b.succeed()
        a.store.lose_replies(2, of="transition")
        await a.fail(2)
        await b.sees(State.OPEN)
        await a.sees(State.OPEN)
        await eventually(lambda: a.store.count("transition") == 3, "the answer")
        assert (a.made, b.made) == ([b.epoch], [])


async def test_race_10_a_maker_that_was_overtaken_knows_its_own(join: Join) -> None:
    """Race 10: it says so too if others have changed the state again before it hears of anything."""
    async with join() as a, join() as b:
        await b.succeed()
        a.store.deaf = True
        held = a.store.hold("reply", "transition")
        await a.fail(2)
        await held.caught()
        await b.sees(State.OPEN)
        tripped = b.epoch
        await order(b, None)
        a.store.lose_requests(20, of="transition")
        a.store.mend()
        await agree(a, b)
        await held.release()
        await eventually(lambda: a.made == [tripped], "the maker to know its own")
        assert b.made == [b.epoch]


async def test_race_11_an_answer_from_before_a_transition_takes_nothing_back(join: Join) -> None:
    """Race 11: a batch answered after the transition that came later leaves the newer epoch alone."""
    async with join() as a, join() as b:
        await b.succeed()
        await agree(a, b) if a.epoch else await a.succeed()
        await a.breakers.flush()
        held = a.store.hold("reply", "record")
        await a.succeed()
        await held.caught()
        await b.fail(2)
        await a.sees(State.OPEN)
        opened = a.epoch
        await held.release()
        assert (a.epoch, a.breaker.state) == (opened, State.OPEN)
        await a.refused()
        await a.breaker.read()
        assert (a.epoch, len(await a.breaker.history())) == (opened, 2)


async def test_race_11_an_answer_from_a_lost_incarnation_takes_nothing_back(
    join: Join, server: Server, prefix: str
) -> None:
    """Race 11: neither does one from before all keys were lost and the circuit opened anew."""
    async with join() as a, join() as b:
        await order(a, Override.FORCED_OPEN, None, None)
        await b.succeed()
        await b.breakers.flush()
        await a.succeed()
        await a.breakers.flush()
        held = a.store.hold("reply", "record")
        await a.succeed()
        await held.caught()
        forget(server, prefix)
        await b.succeed()
        await b.breakers.flush()
        await eventually(lambda: b.breaker.snapshot.transition.is_seed, "a new incarnation")
        await b.fail(2)
        await b.sees(State.OPEN)
        await agree(a, b)
        opened = a.epoch
        await held.release()
        assert (a.epoch, a.breaker.state) == (opened, State.OPEN)
        await a.refused()


def numbered(seen: Snapshot, number: int, **changes: object) -> str:
    """Return a record of the same incarnation with another number, and CLOSED."""
    made = seen.transition
    epoch = replace(made.epoch, number=number, token="feed")
    return replace(made, epoch=epoch, state=State.CLOSED, until=0.0, **changes).record()


async def test_race_12_an_overtaken_push_is_ignored(join: Join) -> None:
    """Race 12: a message that comes after a newer answer changes nothing."""
    async with join() as a:
        await a.open()
        opened = a.breaker.snapshot
        a.store.say("auth", numbered(opened, opened.transition.epoch.number - 1))
        assert a.breaker.snapshot.transition == opened.transition
        await a.refused()


@pytest.mark.parametrize("what", ["another incarnation", "another token"])
async def test_race_12_a_push_of_another_world_is_a_reason_to_read(join: Join, what: str) -> None:
    """Race 12: a message of another incarnation, or of a twin of the epoch, is not believed but asked about."""
    async with join() as a:
        await a.open()
        opened = a.breaker.snapshot
        reads = a.store.count("read")
        record = numbered(opened, opened.transition.epoch.number)
        if what == "another incarnation":
            record = f"beef{record}"
        a.store.say("auth", record)
        assert a.breaker.snapshot.transition == opened.transition
        await eventually(lambda: a.store.count("read") > reads, "the store to be asked")
        await a.refused()


@pytest.mark.parametrize(
    "message", ["", " ", "auth", "auth ", "auth x", "auth \x00", "other 1.2.3 OPEN", "auth a.1.b CLOSED", "auth {0}9"]
)
async def test_race_12_garbage_on_the_channel_changes_nothing(
    join: Join, server: Server, prefix: str, message: str
) -> None:
    """Race 12: whatever is published by hand, the replica goes on, and goes on listening."""
    async with join() as a, join() as b:
        await b.succeed()
        await a.succeed()
        record = a.breaker.snapshot.transition.record()
        for text in (message.format(record), f"auth {record}".replace(" 0 ", f" {'9' * 400} ", 1)):
            server.cli("PUBLISH", f"{prefix}:events", text)
        await a.succeed()
        await b.fail(2)
        await a.sees(State.OPEN)
