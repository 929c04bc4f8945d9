"""A state machine drives a fleet through whatever can go wrong, against a model of the promises.

`COMMONTRIP_EXAMPLES=1000 make test ARGS=tests/breaker/test_state_machine.py` looks longer.
A failure prints its steps, and the blob that repeats them.
"""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from commontrip import Outcome, Override, State
from tests.breaker.members import Member
from tests.breaker.world import POLICIES, SIZE, THRESHOLD, World
from tests.support.servers import Server
from tests.support.unreliable_store import UnreliableStore, Way

LONGER = "COMMONTRIP_EXAMPLES"
EXAMPLES = int(os.environ.get(LONGER, "20"))

replicas = st.integers(0, SIZE - 1)
names = st.sampled_from(sorted(POLICIES))
outcomes = st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.CANCELLED, Outcome.IGNORED])
ways = st.sampled_from(["request", "reply"])
operations = st.sampled_from(["record", "lease", "settle", "transition", "read", "look", None])
keys = st.sampled_from(["state", "v1:epoch", "v1:probes", "v1:window", "v1:override", "failures", "transitions"])


class Fleet(RuleBasedStateMachine):
    """Each rule is one thing that happens; each takes a moment of real time."""

    url = ""

    def __init__(self) -> None:
        """Start with a fleet at peace."""
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World(self.url)
        self.broken = False
        self.run(self.world.start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the world go on until this is done."""
        self.broken = True
        result = self.runner.run(work)
        self.runner.run(self.world.check_failures())
        self.broken = False
        return result

    def teardown(self) -> None:
        """Whatever has happened: in peace the fleet agrees, recovers and counts."""
        try:
            if not self.broken:
                self.run(self.peace())
        finally:
            self.runner.run(self.world.stop())
            self.runner.close()

    async def peace(self) -> None:
        """Check everything, mend everything, and check again."""
        world = self.world
        await world.check_counts()
        await world.heal()
        await world.recover()
        await world.check_counts()
        await world.check_history()
        world.check_news()
        world.check_troubles()

    @property
    def members(self) -> list[Member]:
        """The replicas that live."""
        return self.world.members

    # -- calls

    @rule(replica=replicas, name=names, outcome=outcomes)
    def call(self, replica: int, name: str, outcome: Outcome) -> None:
        """A short call."""

        async def work() -> None:
            if one := await self.world.admit(self.members[replica], name):
                self.world.end(one, outcome)

        self.run(work())

    @rule(name=names, callers=st.integers(1, 3))
    def crowd(self, name: str, callers: int) -> None:
        """Calls that take their time, at every replica at once, as soon as a short cooldown is over."""

        async def work() -> None:
            await self.world.await_cooldown(name)
            calls = [self.world.admit(member, name) for member in self.members for _ in range(callers)]
            await asyncio.gather(*calls)

        self.run(work())

    @rule(index=st.integers(0, 20), outcome=outcomes)
    def end(self, index: int, outcome: Outcome) -> None:
        """One that has taken its time."""

        async def work() -> None:
            if running := self.world.running:  # what runs depends on time, and so no rule may
                self.world.end(running[index % len(running)], outcome)

        self.run(work())

    @rule(outcome=outcomes)
    def end_all(self, outcome: Outcome) -> None:
        """All of them."""

        async def work() -> None:
            for one in list(self.world.running):
                self.world.end(one, outcome)

        self.run(work())

    @rule(replica=replicas, name=names)
    def trip(self, replica: int, name: str) -> None:
        """As many failures as the policy wants: the very next call is refused."""
        self.run(self._trip(self.members[replica], name))

    async def _trip(self, member: Member, name: str) -> None:
        admitted = [await self.world.admit(member, name) for _ in range(THRESHOLD[name])]
        calls = [one for one in admitted if one]
        seen = self.world.breaker(member, name).snapshot
        own = len(calls) == THRESHOLD[name] and {one.epoch for one in calls} == {seen.epoch}
        for one in calls:
            self.world.end(one, Outcome.FAILURE)
        if own and seen.state == State.CLOSED and seen.override is None:
            again = await self.world.admit(member, name)
            assert again is None, f"{member.breakers.replica} outran itself"

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.12, 0.6]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.run(asyncio.sleep(seconds))

    # -- what goes wrong

    @rule(
        replica=replicas,
        what=st.sampled_from(["delay", "repeat", "lose", "hang", "late", "refuse", "cut", "mend", "kill"]),
        way=ways,
        of=operations,
        times=st.integers(1, 3),
    )
    def network(self, replica: int, what: str, way: Way, of: str | None, times: int) -> None:
        """Messages are late, lost or repeated; a replica is cut off, mended, or dies and another takes its place."""
        self.run(self._network(self.members[replica], what, way, of, times))

    async def _network(self, member: Member, what: str, way: Way, of: str | None, times: int) -> None:
        if what == "delay":
            member.store.delay(way, 0.05, times, of=of)
            self.world.forget_verdicts(member)
        elif what == "repeat":
            member.store.repeat(0.2 * times, of=of)
        elif what == "kill":
            self.world.kill(member)
            await self.world.join()
        else:
            self._harm(self.world.harm(member), what, way, of, times)

    def _harm(self, store: UnreliableStore, what: str, way: Way, of: str | None, times: int) -> None:
        lose = store.lose_requests if way == "request" else store.lose_replies
        if what in ("lose", "hang"):
            lose(times, of=of, hang=what == "hang")
        elif what == "late":
            store.delay(way, 0.4 * times, of=of)
        elif what == "refuse":
            store.refuse(times, of=of)
        elif what == "cut":
            store.cut = True
        else:
            store.mend()

    @rule(
        what=st.sampled_from(["flush", "delete", "spoil", "save", "restore", "an hour back", "an hour ahead"]),
        noticed=st.booleans(),
        name=names,
        part=keys,
        garbage=st.sampled_from(["", "x", "\xff"]),
    )
    def store(self, what: str, noticed: bool, name: str, part: str, garbage: str) -> None:  # noqa: FBT001 - drawn
        """Keys are lost, spoilt, or put back as they were; the clock jumps; connections notice it, or not."""
        self.run(self._store(what, self.world.key(name, part), garbage))
        for member in self.members if noticed else ():
            self.run(member.store.miss())

    async def _store(self, what: str, key: str, garbage: str) -> None:
        if what == "flush":
            await self.world.flush()
        elif what == "delete":
            await self.world.raw.delete(key)
        elif what == "spoil":
            await self.world.raw.set(key, garbage)
        elif what == "save":
            await self.world.save()
        elif what == "restore":
            await self.world.restore()
        else:
            await self.world.move_clock(-3600 if what == "an hour back" else 3600)

    @rule(replica=replicas, name=names, wanted=st.sampled_from([*State, *Override, None]))
    def people(self, replica: int, name: str, wanted: State | Override | None) -> None:
        """Somebody SETs the state by hand, or orders something at a replica that reaches the store."""
        member = self.members[replica]
        self.world.forget_verdicts(name=name)
        if isinstance(wanted, State):
            self.run(self.world.raw.set(self.world.key(name, "state"), wanted))
        elif not member.store.faulty:
            breaker = self.world.breaker(member, name)
            self.run(breaker.override(wanted, author="test", reason="machine", seconds=1))


@pytest.mark.timeout(0 if LONGER in os.environ else 120)
def test_a_fleet_keeps_its_promises_whatever_happens(server: Server) -> None:
    """Nothing counts twice, no probe is too many, no replica outruns itself, no verdict is lost; in peace all agree."""

    class Here(Fleet):
        url = server.url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes of real time
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
