"""A state machine drives a fleet through whatever can go wrong, against a model of the promises.

`COMMONTRIP_EXAMPLES=1000 make test ARGS=tests/breaker/test_state_machine.py` looks longer, and shrinks what it finds.
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
    precondition,
    rule,
    run_state_machine_as_test,
)

from commontrip import Outcome, Override, State
from tests.breaker.members import Member
from tests.breaker.world import POLICIES, SIZE, THRESHOLD, World
from tests.support.servers import Server
from tests.support.unreliable_store import Way

LONGER = "COMMONTRIP_EXAMPLES"
EXAMPLES = int(os.environ.get(LONGER, "15"))

replicas = st.integers(0, SIZE - 1)
names = st.sampled_from(sorted(POLICIES))
outcomes = st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.CANCELLED, Outcome.IGNORED])
ways = st.sampled_from(["request", "reply"])
operations = st.sampled_from(["read", "record", "transition", "lease", "settle", "look", None])
keys = st.sampled_from(
    ["state", "failures", "cooldown", "v1:epoch", "v1:window", "v1:probes", "v1:override", "transitions"]
)


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
        self.runner.run(self.world.check_counts())
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
        """Calls at every replica at once that take their time."""

        async def work() -> None:
            calls = [self.world.admit(member, name) for member in self.members for _ in range(callers)]
            await asyncio.gather(*calls)

        self.run(work())

    @precondition(lambda self: self.world.running)
    @rule(index=st.integers(0, 20), outcome=outcomes)
    def end(self, index: int, outcome: Outcome) -> None:
        """One that has taken its time."""

        async def work() -> None:
            self.world.end(self.world.running[index % len(self.world.running)], outcome)

        self.run(work())

    @precondition(lambda self: self.world.running)
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

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.03, 0.12, 0.3, 0.6]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.run(asyncio.sleep(seconds))

    # -- the network

    @rule(replica=replicas, way=ways, of=operations, times=st.integers(1, 3), hang=st.booleans())
    def lose(self, replica: int, way: str, of: str | None, times: int, *, hang: bool) -> None:
        """Messages get lost."""
        store = self.world.harm(self.members[replica])
        lose = store.lose_requests if way == "request" else store.lose_replies
        lose(times, of=of, hang=hang)

    @rule(replica=replicas, way=ways, of=operations, times=st.integers(1, 3), seconds=st.sampled_from([0.02, 0.1]))
    def delay(self, replica: int, way: Way, of: str | None, times: int, seconds: float) -> None:
        """Messages take their time."""
        self.members[replica].store.delay(way, seconds, times, of=of)
        self.world.forget_verdicts(self.members[replica])

    @rule(replica=replicas, way=ways, of=operations, seconds=st.sampled_from([0.6, 1.2]), again=st.booleans())
    def come_too_late(self, replica: int, way: Way, of: str | None, seconds: float, *, again: bool) -> None:
        """A message comes when nobody waits for it any more, or a request is done again then."""
        if again:
            self.members[replica].store.repeat(seconds, of=of)
        else:
            self.world.harm(self.members[replica]).delay(way, seconds, of=of)

    @rule(replica=replicas, trouble=st.sampled_from(["cut", "mend", "kill", "refuse"]))
    def trouble(self, replica: int, trouble: str) -> None:
        """A replica is cut off or refused, is mended, or dies and another takes its place."""
        self.run(self._trouble(replica, trouble))

    async def _trouble(self, replica: int, trouble: str) -> None:
        store = self.world.harm(self.members[replica])
        if trouble == "cut":
            store.cut = True
        elif trouble == "mend":
            store.mend()
        elif trouble == "refuse":
            store.refuse(3)
        else:
            self.world.kill(replica)
            await self.world.join()

    # -- the store

    @rule(noticed=st.booleans())
    def flush(self, *, noticed: bool) -> None:
        """All keys are lost."""
        self.run(self._change(self.world.flush(), noticed=noticed))

    @rule(noticed=st.booleans())
    def save_or_restore(self, *, noticed: bool) -> None:
        """A copy is made; it takes over, and what came after it is lost."""
        work = self.world.restore() if self.world.copy else self.world.save()
        self.run(self._change(work, noticed=noticed))

    async def _change(self, work: Coroutine[Any, Any, None], *, noticed: bool) -> None:
        await work
        for member in self.members if noticed else ():
            member.store.miss()

    @rule(hours=st.sampled_from([-1.0, 1.0]))
    def move_clock(self, hours: float) -> None:
        """The store's clock jumps."""
        self.run(self.world.move_clock(3600 * hours))

    @rule(name=names, part=keys, garbage=st.sampled_from([None, None, "", "x", "\xff"]))
    def spoil(self, name: str, part: str, garbage: str | None) -> None:
        """One key is lost, or overwritten."""
        key, raw = self.world.key(name, part), self.world.raw
        self.run(raw.delete(key) if garbage is None else raw.set(key, garbage))

    # -- people

    @rule(name=names, state=st.sampled_from(sorted(State)))
    def set_by_hand(self, name: str, state: State) -> None:
        """Somebody SETs the state."""
        self.world.forget_verdicts(name=name)
        self.run(self.world.raw.set(self.world.key(name, "state"), state))

    @rule(replica=replicas, name=names, order=st.sampled_from([*Override, None]))
    def override(self, replica: int, name: str, order: Override | None) -> None:
        """An operator orders something, if the store can be reached."""
        member = self.members[replica]
        if not member.store.faulty:
            self.world.forget_verdicts(name=name)
            breaker = self.world.breaker(member, name)
            self.run(breaker.override(order, author="test", reason="machine", seconds=1))


@pytest.mark.timeout(0 if LONGER in os.environ else 120)
def test_a_fleet_keeps_its_promises_whatever_happens(server: Server) -> None:
    """Nothing counts twice, no probe is too many, no replica outruns itself, no verdict is lost; in peace all agree."""

    class Here(Fleet):
        url = server.url

    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            phases=(*phases, Phase.shrink) if LONGER in os.environ else phases,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
