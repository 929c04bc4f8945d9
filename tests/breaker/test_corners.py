"""What happens once in a million calls, made to happen."""

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from commontrip import (
    Breakers,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    MemoryStore,
    Outcome,
    Policy,
    SlowCallRate,
    State,
    StoreUnavailableError,
)
from commontrip._store import Ask, Batch, View
from commontrip.redis import RedisStore
from commontrip.testing import RecordingListener
from tests.breaker.members import Join, joins, policy
from tests.breaker.test_races_leases import fleet, probe
from tests.support.servers import Server
from tests.support.waiting import eventually


@pytest.fixture
def join(redis_url: str, prefix: str) -> Join:
    """A fleet with one place among its probes."""
    return fleet(redis_url, prefix, probe_lease=5)


async def test_a_quick_call_before_a_silence_is_not_slow() -> None:
    """The watch over hanging calls passes over one that has long ended."""
    policy = Policy(trip=SlowCallRate(1.0, 0.05, minimum_calls=1))
    async with Breakers(MemoryStore()) as breakers:
        auth = breakers.get("auth", policy)
        await auth.call(asyncio.sleep, 0)
        await asyncio.sleep(0.1)  # two limits: the watch has looked
        await breakers.flush()
        assert (await auth.read()).counts.slow == 0


async def test_settled_before_the_end_waits_for_nothing(join: Join) -> None:
    """Who asks whether a running probe is settled is not kept waiting for its end."""
    async with join() as a:
        await a.half_open()
        running = await probe(a)
        async with asyncio.timeout(5):
            await running.settled()
        assert not running.done


async def test_a_caller_cancelled_as_its_place_arrives_passes_it_on(join: Join) -> None:
    """Race 6: cancelled in the very turn in which the place arrives, a caller leaves it to the next one."""
    async with join() as a:
        await a.half_open()
        held = a.store.hold("reply", "lease")
        caller = asyncio.create_task(a.breaker.admit())
        await held.caught()
        queue = a.breaker._circuit.places._waiting
        await eventually(lambda: a.breaker.state == State.HALF_OPEN and bool(queue), "the caller to wait")
        queue[0].add_done_callback(lambda _: caller.cancel())
        await held.release()
        await asyncio.wait({caller})
        assert caller.cancelled()
        assert (await a.breaker.admit()).probe
        assert a.store.count("lease") == 1


async def test_a_place_whose_reply_was_lost_is_found_again(join: Join) -> None:
    """An ask whose reply was lost is sent again under its id, and takes one place, not two."""
    async with join() as a:
        await a.half_open()
        a.store.lose_replies(1, of="lease")
        call = await probe(a)
        assert a.breaker._circuit.knowledge.shared.epoch is not None
        assert (await a.breaker.read()).probes_in_flight == 1
        call.end(Outcome.SUCCESS)
        await a.sees(State.CLOSED)


async def test_a_missing_right_to_read_is_said(server: Server, prefix: str) -> None:
    """Without the right to read a key its reader is refused, as misconfigured; only a wrong type counts as empty."""
    name, word = f"{prefix}-reader", secrets.token_hex(8)
    server.cli("ACL", "SETUSER", name, "on", f">{word}", "~*", "&*", "+@all", "-xrevrange")
    store = RedisStore.from_url(f"redis://{name}:{word}@127.0.0.1:{server.port}/0", prefix=prefix)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.history("auth", 1)
    assert caught.value.misconfigured
    await store.aclose()
    server.cli("ACL", "DELUSER", name)


async def test_only_one_transition_is_proposed_at_a_time(join: Join) -> None:
    """While a transition is on its way no second one is sent; what else there is to say is said afterwards."""
    async with join() as a:
        await a.succeed()
        held = a.store.hold("reply", "transition")
        await a.fail()
        await held.caught()
        knowledge = a.breaker._circuit.knowledge
        knowledge.propose(knowledge.change(knowledge.here, State.CLOSED, "external"))
        await held.release()
        await a.sees(State.OPEN)
        assert a.store.count("transition") == 1
        with pytest.raises(CircuitOpenError):
            await a.breaker.admit()


async def test_who_sets_the_state_goes_over_what_is_remembered(join: Join, server: Server, prefix: str) -> None:
    """After a failover that lost the trip, a SET by hand is obeyed and not overruled by those who remember it."""
    async with join() as a:
        await a.succeed()
        await a.breakers.flush()
        lost = str(server.cli("GET", f"{prefix}:auth:v1:epoch"))
        await a.open()
        server.cli("MSET", f"{prefix}:auth:v1:epoch", lost, f"{prefix}:auth:state", "HALF_OPEN")
        await a.breaker.read()
        await a.sees(State.HALF_OPEN)
        made = a.breaker.snapshot.transition
        assert (made.reason, made.epoch.number) == ("external", 2)


async def test_a_verdict_made_alone_is_told_when_the_store_is_back(redis_url: str, server: Server, prefix: str) -> None:
    """A replica that opened in local mode opens the fleet, if nothing has happened there meanwhile."""
    async with joins(redis_url, prefix, policy(ConsecutiveFailures(1)))() as a:
        await a.succeed()
        a.store.cut = True
        await a.insists(lambda: a.breaker.snapshot.local, "local mode")
        await a.fail()
        await a.sees(State.OPEN)
        a.store.mend()
        await a.insists(lambda: server.cli("GET", f"{prefix}:auth:state") == "OPEN", "the fleet to open")
        assert (await a.breaker.history(1))[0][0].reason == "local"


async def test_reading_without_a_store_says_what_is_known(join: Join) -> None:
    """A store that refuses is no error for who only looks."""
    async with join() as a:
        await a.open()
        a.store.refuse(1, of="read")
        assert (await a.breaker.read()).state is State.OPEN


async def test_a_place_asked_of_a_store_that_has_gone_is_none(join: Join) -> None:
    """Who waits for a place when the store goes is refused, and served by the local circuit from then on."""
    async with join() as a:
        await a.half_open()
        a.store.refuse(1, of="lease")
        await a.refused()
        assert (await probe(a)).probe
        assert a.breaker.snapshot.local


async def test_an_error_of_no_store_loses_no_outcome(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with a batch, it is sent again, and all that waited with it."""
    async with join(policy=policy(FailureCount(9))) as a:
        other = a.breakers.get("other", policy(FailureCount(9)))
        await a.succeed()
        await other.admit()
        await a.breakers.flush()
        record = a.store.record

        async def fail(batches: Sequence[Batch]) -> list[View]:
            monkeypatch.setattr(a.store, "record", record)
            raise RuntimeError(batches)

        monkeypatch.setattr(a.store, "record", fail)
        await a.fail()
        (await other.admit()).end(Outcome.FAILURE)
        await a.breakers.flush()
        assert [(await one.read()).counts.failures for one in (a.breaker, other)] == [1, 1]


async def test_an_error_of_no_store_keeps_no_reader_waiting(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with a first read, the next call reads again."""
    async with join() as a:
        read = a.store.read

        async def fail(asks: Sequence[Ask]) -> list[View]:
            monkeypatch.setattr(a.store, "read", read)
            raise RuntimeError(asks)

        monkeypatch.setattr(a.store, "read", fail)
        await a.insists(lambda: bool(a.epoch), "the second read")


async def test_a_missing_right_to_be_present_keeps_nobody_away(join: Join) -> None:
    """A replica that may not write the fleet's key goes back to the store all the same."""

    async def refuse(replica: str, seconds: float) -> int:
        raise StoreUnavailableError("presence", f"NOPERM {replica} {seconds}", misconfigured=True)

    async with join() as a:
        await a.succeed()
        a.store.refuse(1, of="record")
        await a.fail()
        await a.insists(lambda: a.breakers.local, "local mode")
        a.store.presence = refuse
        await a.insists(lambda: not a.breakers.local, "the store to be used again")


async def test_who_may_not_log_in_stays_alone(server: Server, prefix: str) -> None:
    """With a wrong password a replica stays in local mode, and says no more than that, and why."""
    reports = RecordingListener()
    store = RedisStore.from_url(server.url.replace("://", "://nobody:wrong@"), prefix=prefix)
    async with Breakers(store, listeners=[reports]) as breakers:
        auth = breakers.get("auth")
        async with asyncio.timeout(10):
            for _ in range(200):  # 2 s, two looks
                async with auth:
                    await asyncio.sleep(0.01)
                assert breakers.local
    assert {report.kind for report in reports.reports} == {"misconfigured", "local_mode"}
