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
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from commontrip import Outcome, State
from tests.breaker.world import ORDERS, POLICIES, SIZE, THRESHOLD, World
from tests.support.servers import Server

LONGER = "COMMONTRIP_EXAMPLES"
EXAMPLES = int(os.environ.get(LONGER, "15"))

replicas = st.integers(0, SIZE - 1)
names = st.sampled_from(sorted(POLICIES))
outcomes = st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.CANCELLED, Outcome.IGNORED])
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
        try:
            return self.runner.run(work)
        except BaseException:
            self.broken = True
            raise

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

    # -- calls

    @rule(replica=replicas, name=names, outcome=outcomes)
    def call(self, replica: int, name: str, outcome: Outcome) -> None:
        """A short call."""

        async def work() -> None:
            if one := await self.world.admit(self.world.members[replica], name):
                self.world.end(one, outcome)

        self.run(work())

    @rule(replica=replicas, name=names)
    def begin(self, replica: int, name: str) -> None:
        """A call that takes its time."""
        self.run(self.world.admit(self.world.members[replica], name))

    @precondition(lambda self: self.world.running)
    @rule(index=st.integers(0, 20), outcome=outcomes)
    def end(self, index: int, outcome: Outcome) -> None:
        """One that has taken its time."""

        async def work() -> None:
            self.world.end(self.world.running[index % len(self.world.running)], outcome)

        self.run(work())

    @rule(replica=replicas, name=names)
    def fail_until_it_knows(self, replica: int, name: str) -> None:
        """As many failures as the policy wants: the very next call is refused."""
        self.run(self._fail_until_it_knows(replica, name))

    async def _fail_until_it_knows(self, replica: int, name: str) -> None:
        member = self.world.members[replica]
        admitted = [await self.world.admit(member, name) for _ in range(THRESHOLD[name])]
        calls = [one for one in admitted if one]
        seen = self.world.breaker(member, name).snapshot
        own = len(calls) == THRESHOLD[name] and {one.epoch for one in calls} == {seen.epoch}
        for one in calls:
            self.world.end(one, Outcome.FAILURE)
        if own and seen.state == State.CLOSED and seen.override is None:
            again = await self.world.admit(member, name)
            assert again is None, f"{member.breakers.replica} outran itself"

    # -- time and the network

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.03, 0.12, 0.3, 0.6]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.run(asyncio.sleep(seconds))

    @rule(
        replica=replicas,
        way=st.sampled_from(["request", "reply"]),
        of=operations,
        times=st.integers(1, 3),
        hang=st.booleans(),
    )
    def lose(self, replica: int, way: str, of: str | None, times: int, *, hang: bool) -> None:
        """Messages get lost."""
        member = self.world.members[replica]
        self.world.excuse(member)
        self.world.forget_verdicts(member)
        lose = member.store.lose_requests if way == "request" else member.store.lose_replies
        lose(times, of=of, hang=hang)

    @rule(
        replica=replicas, way=st.sampled_from(["request", "reply"]), of=operations, times=st.integers(1, 3),
        seconds=st.sampled_from([0.01, 0.08, 0.6, 1.2]),
    )  # fmt: skip
    def delay(self, replica: int, way: Any, of: str | None, times: int, seconds: float) -> None:
        """Messages take their time."""
        member = self.world.members[replica]
        if seconds > 0.1:
            self.world.excuse(member)
        self.world.forget_verdicts(member)
        member.store.delay(way, seconds, times, of=of)

    @rule(replica=replicas, of=operations, seconds=st.sampled_from([0.0, 0.05, 0.3]))
    def repeat(self, replica: int, of: str | None, seconds: float) -> None:
        """A request is done twice."""
        self.world.members[replica].store.repeat(seconds, of=of)

    @rule(replica=replicas, of=operations, times=st.integers(1, 3))
    def refuse(self, replica: int, of: str | None, times: int) -> None:
        """The store refuses to work."""
        member = self.world.members[replica]
        self.world.excuse(member)
        self.world.forget_verdicts(member)
        member.store.refuse(times, of=of)

    @rule(replica=replicas)
    def cut(self, replica: int) -> None:
        """A replica is cut off."""
        member = self.world.members[replica]
        self.world.excuse(member)
        self.world.forget_verdicts(member)
        member.store.cut = True

    @rule(replica=replicas)
    def mend(self, replica: int) -> None:
        """And reaches the store again."""
        self.run(self._mend(replica))

    async def _mend(self, replica: int) -> None:
        self.world.members[replica].store.mend()

    @rule(replica=replicas)
    def kill(self, replica: int) -> None:
        """A replica dies, and another takes its place."""
        self.world.kill(replica)
        self.run(self.world.join())

    # -- the store

    @rule()
    def flush(self) -> None:
        """All keys are lost."""
        self.run(self.world.flush())

    @rule(name=names, part=keys)
    def delete(self, name: str, part: str) -> None:
        """One key is lost."""
        self.run(self.world.raw.delete(self.world.key(name, part)))

    @rule(name=names, part=keys, garbage=st.sampled_from(["", "x", "OPENED", "0", "\xff"]))
    def spoil(self, name: str, part: str, garbage: str) -> None:
        """One key is overwritten."""
        self.run(self.world.raw.set(self.world.key(name, part), garbage))

    @rule()
    def save(self) -> None:
        """A copy is made."""
        self.run(self.world.save())

    @rule(noticed=st.booleans())
    def restore(self, *, noticed: bool) -> None:
        """The copy takes over: what came after it is lost."""

        async def work() -> None:
            await self.world.restore()
            for member in self.world.members if noticed else ():
                member.store.miss()

        self.run(work())

    @rule(hours=st.sampled_from([-1.0, 1.0]))
    def move_clock(self, hours: float) -> None:
        """The store's clock jumps."""
        self.run(self.world.move_clock(3600 * hours))

    # -- people

    @rule(name=names, state=st.sampled_from(sorted(State)))
    def set_by_hand(self, name: str, state: State) -> None:
        """Somebody SETs the state."""
        self.world.forget_verdicts(name=name)
        self.run(self.world.raw.set(self.world.key(name, "state"), state))

    @rule(replica=replicas, name=names, order=st.sampled_from(ORDERS))
    def override(self, replica: int, name: str, order: Any) -> None:
        """An operator orders something, if the store can be reached."""
        member = self.world.members[replica]
        if not member.store.faulty:
            self.world.forget_verdicts(name=name)
            breaker = self.world.breaker(member, name)
            self.run(breaker.override(order, author="test", reason="machine", seconds=1))

    @invariant()
    def counted_once(self) -> None:
        """Nothing is counted twice, or in another epoch than its own."""
        self.run(self.world.check_counts())


@pytest.mark.timeout(0 if LONGER in os.environ else 120)
def test_a_fleet_keeps_its_promises_whatever_happens(server: Server) -> None:
    """Nothing counts twice, no probe is one too many, no replica outruns itself, no verdict is lost; in peace all agree."""

    class Here(Fleet):
        url = server.url

    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            phases=(*phases, Phase.shrink) if LONGER in os.environ else phases,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
