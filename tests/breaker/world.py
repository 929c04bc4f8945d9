"""A small world for the state machine: a few replicas, one real server, and a witness of what was admitted."""

import asyncio
import contextlib
import gc
import itertools
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from commontrip import (
    Breaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    Outcome,
    Policy,
    State,
    Transition,
)
from commontrip._calls import Call
from commontrip._store import Ask
from commontrip._transition import parse
from commontrip.redis import RedisStore
from tests.breaker.members import Member, policy
from tests.support.unreliable_store import Clock, UnreliableStore

SIZE = 3
PROBES = 2
LEASE = 0.5
POLICIES: dict[str, Policy] = {
    "brief": policy(FailureCount(3), probes=PROBES, cooldown=0.1, probe_lease=LEASE),
    "long": policy(ConsecutiveFailures(2), probes=PROBES, cooldown=20.0, probe_lease=LEASE),
}
THRESHOLD = {"brief": 3, "long": 2}
ASLEEP = LEASE / 4
"""Seconds for which the event loop may stand still before replicas no longer count as alive."""
# A jump of the clock: all times in what is stored (in ms, so above 1e12) are then as much earlier or later.
_MOVE = """
local by = tonumber(ARGV[1])
local record = redis.call('GET', KEYS[1])
if record then
  local words = {}
  for word in string.gmatch(record, '%S+') do
    local at = string.match(word, '^%d+$') and tonumber(word) or 0
    words[#words + 1] = at > 1e12 and string.format('%.0f', at + by) or word
  end
  redis.call('SET', KEYS[1], table.concat(words, ' '), 'KEEPTTL')
end
for _, key in ipairs({KEYS[2], KEYS[3]}) do
  local sound, list = pcall(cmsgpack.unpack, redis.call('GET', key) or '')
  if sound and type(list) == 'table' then
    for i, at in ipairs(list) do
      if type(at) == 'number' and at > 1e12 then list[i] = at + by end
    end
    redis.call('SET', key, cmsgpack.pack(list), 'KEEPTTL')
  end
end
"""


@dataclass(slots=True, eq=False)
class Running:
    """A call that was admitted and has not ended."""

    member: Member
    name: str
    epoch: str
    call: Call
    local: bool
    excused: bool = False
    """Its replica did not reach the store for a while, or its lease was undone by force."""


@dataclass(slots=True)
class Verdict:
    """An OPEN circuit that was wiped from the store while somebody remembered it."""

    until: float
    who: list[Member] = field(default_factory=list)


class World:
    """Everything that can be done to a fleet, and what must hold whatever is done."""

    def __init__(self, url: str) -> None:
        """Prepare; `start` makes the replicas."""
        self.url = url
        self.prefix = f"world-{secrets.token_hex(4)}"
        self.clock = Clock()
        self.raw: Redis[bytes] = Redis.from_url(url)
        self.observer = RedisStore.from_url(url, prefix=self.prefix)
        self.members: list[Member] = []
        self.dead: list[Member] = []
        self.running: list[Running] = []
        self.ended: dict[str, Counter[Outcome]] = defaultdict(Counter)
        """What calls did that have ended, by the epoch that admitted them."""
        self.copy: dict[bytes, bytes] | None = None
        self.rewritten = False
        """Whether the store was put back, or its clock moved: then an epoch can come twice."""
        self.verdicts: dict[str, Verdict] = {}
        self.troubles: list[dict[str, Any]] = []
        self._ticked = 0.0
        self._ticker: asyncio.Task[None] | None = None
        self._names = itertools.count(1)

    # -- life

    async def start(self) -> None:
        """Start the fleet."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.troubles.append(context))
        self._ticked = loop.time()
        self._ticker = asyncio.create_task(self._tick())
        for _ in range(SIZE):
            await self.join()

    async def join(self) -> None:
        """Let a replica join."""
        member = Member(
            self.url,
            self.prefix,
            POLICIES["brief"],
            clock=self.clock,
            replica=f"r{next(self._names)}",
            store_budget=0.2,
        )
        await member.breakers.__aenter__()
        self.members.append(member)

    def kill(self, member: Member) -> None:
        """Let a replica die: nothing that it does reaches anybody any more."""
        self.members.remove(member)
        member.store.cut = True
        self.running = [one for one in self.running if one.member is not member]
        self.forget_verdicts(member)
        self.dead.append(member)

    async def stop(self) -> None:
        """End everything."""
        if self._ticker:
            self._ticker.cancel()
        for member in self.dead:
            member.store.refusing = True
        leaving = [member.breakers.__aexit__(None, None, None) for member in (*self.members, *self.dead)]
        await asyncio.gather(*leaving)
        await self._wipe()
        await self.observer.aclose()
        await self.raw.aclose()

    async def _tick(self) -> None:
        while True:
            self._watch_sleep()
            await asyncio.sleep(ASLEEP / 4)

    def _watch_sleep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._ticked > ASLEEP:
            self.excuse()
        self._ticked = now

    def excuse(self, member: Member | None = None) -> None:
        """Note that probes that run now may be overlapped by others, through no fault of the breaker."""
        for one in self.running:
            if member is None or one.member is member:
                one.excused = True

    def harm(self, member: Member) -> UnreliableStore:
        """Return a replica's store, to be spoilt: nothing is expected of it for a while."""
        self.excuse(member)
        self.forget_verdicts(member)
        return member.store

    # -- calls

    def breaker(self, member: Member, name: str) -> Breaker:
        """Return a replica's breaker."""
        return member.breakers.get(name, POLICIES[name])

    async def admit(self, member: Member, name: str) -> Running | None:
        """Make a call; None if it was refused. Any other error is one too many."""
        breaker = self.breaker(member, name)
        try:
            call = await breaker.admit()
        except CircuitOpenError:
            return None
        seen = breaker.snapshot
        epoch = getattr(call, "epoch", seen.epoch)
        one = Running(member, name, epoch, call, local=seen.local, excused=member.store.faulty)
        self.running.append(one)
        self._watch_sleep()
        if call.probe:
            self._check_budget(one)
        else:
            self._check_verdict(one)
        return one

    async def await_cooldown(self, name: str) -> None:
        """Wait out a short cooldown."""
        left = [self.breaker(member, name).snapshot.remaining for member in self.members]
        await asyncio.sleep(max((one for one in left if one < LEASE), default=0.0))

    def end(self, one: Running, outcome: Outcome) -> None:
        """Let a call end."""
        self.running.remove(one)
        self.ended[one.epoch][outcome] += 1
        one.call.end(outcome, "Boom" if outcome == Outcome.FAILURE else "")

    def _check_budget(self, new: Running) -> None:
        probes = [one for one in self.running if one.call.probe and one.name == new.name and not one.excused]
        if not new.local:
            fleet = [one for one in probes if not one.local]
            assert len(fleet) <= PROBES, f"{len(fleet)} probes of the fleet are in flight for {new.name}"
        own = [one for one in probes if one.member is new.member]
        assert len(own) <= PROBES, f"{len(own)} probes of one replica are in flight for {new.name}"

    def _check_verdict(self, new: Running) -> None:
        verdict = self.verdicts.get(new.name)
        if verdict and not new.local and not new.excused:
            late = asyncio.get_running_loop().time() >= verdict.until
            assert late, f"{new.name} was OPEN for {verdict.who[0].breakers.replica}, who was not heard"

    # -- the store

    async def flush(self) -> None:
        """Lose all keys; whoever knows of an OPEN circuit, and can be heard, has to be."""
        now = asyncio.get_running_loop().time()
        for name in POLICIES:
            left = [(self.breaker(member, name).snapshot, member) for member in self.members if not member.store.faulty]
            who = [(seen.remaining, member) for seen, member in left if seen.remaining > 1 and not seen.local]
            if who and name not in self.verdicts:
                self.verdicts[name] = Verdict(now + min(who)[0] - 0.5, [member for _, member in who])
        await self._wipe()

    def forget_verdicts(self, member: Member | None = None, name: str | None = None) -> None:
        """No longer expect to hear of what a replica knew, or of a breaker, or of anything."""
        for breaker, verdict in list(self.verdicts.items()):
            if member in verdict.who:
                verdict.who.remove(member)
            if not verdict.who or (member is None and name in {None, breaker}):
                del self.verdicts[breaker]

    async def _wipe(self) -> None:
        if keys := await self.raw.keys(f"{self.prefix}:*"):
            await self.raw.delete(*keys)

    async def save(self) -> None:
        """Keep a copy of all keys."""
        keys = await self.raw.keys(f"{self.prefix}:*")
        dumps = await asyncio.gather(*map(self.raw.dump, keys))
        self.copy = {key: dump for key, dump in zip(keys, dumps, strict=True) if dump}

    async def restore(self) -> None:
        """Put the copy back, as a failover does that has lost writes."""
        if self.copy is None:
            return
        self.rewritten = True
        self.forget_verdicts()
        self.excuse()
        async with self.raw.pipeline(transaction=True) as pipe:
            for key in await self.raw.keys(f"{self.prefix}:*"):
                pipe.delete(key)
            for key, dump in self.copy.items():
                pipe.restore(key, 600_000, dump, replace=True)
            await pipe.execute()

    async def move_clock(self, seconds: float) -> None:
        """Let the store's clock jump: what is stored stays as it is, and `now` is another."""
        self.rewritten, self.copy = True, None
        self.forget_verdicts()
        self.excuse()
        self.clock.shift += seconds
        for name in POLICIES:
            keys = [f"{self.prefix}:{name}:v1:{part}" for part in ("epoch", "window", "probes")]
            await self.raw.eval(_MOVE, 3, *keys, round(-1000 * seconds))

    def key(self, name: str, part: str) -> str:
        """Return a key of a breaker."""
        return f"{self.prefix}:{name}:{part}"

    # -- what must hold

    async def check_failures(self) -> None:
        """No failure that people can read is counted twice, or in another epoch than its own."""
        for name in POLICIES:
            record, shown = await self.raw.mget(self.key(name, "v1:epoch"), self.key(name, "failures"))
            epoch, _, rest = (record or b"").partition(b" ")
            if rest.startswith(b"CLOSED") and (shown or b"").isdigit():
                ended = self.ended[epoch.decode()]
                assert int(shown) <= ended[Outcome.FAILURE], f"{shown} failures of {dict(ended)} in {epoch}"

    async def check_counts(self) -> None:
        """No outcome is counted twice, or in another epoch than its own."""
        asks = [
            Ask(name=name, seed=False, token="0", replica="witness", window=60.0, cooldown=1.0) for name in POLICIES
        ]
        for view in await self.observer.read(asks):
            if view.transition:
                seen, ended = view.counts, self.ended[str(view.transition.epoch)]
                assert seen.failures <= ended[Outcome.FAILURE], f"{seen} of {dict(ended)} in {view.transition}"
                calls = ended[Outcome.FAILURE] + ended[Outcome.SUCCESS]
                assert seen.calls <= calls, f"{seen} of {dict(ended)} in {view.transition}"

    async def check_history(self) -> None:
        """Each epoch is one transition, numbers rise, and no state is left without its reason."""
        for name in POLICIES:
            past = [made for made, _ in reversed(await self.observer.history(name, 1000))]
            for before, after in itertools.pairwise(past):
                if before.epoch.incarnation == after.epoch.incarnation:
                    assert after.epoch.number > before.epoch.number, f"{name}: {before.epoch}, then {after.epoch}"
            for made in past:
                self._check_reason(name, made)

    def _check_reason(self, name: str, made: Transition) -> None:
        if made.reason == "tripped":
            assert made.state == State.OPEN
            assert made.previous_state == State.CLOSED
            assert made.failures >= THRESHOLD[name], f"{name} tripped below its threshold: {made}"
        elif made.reason == "cooldown_over":
            assert (made.previous_state, made.state) == (State.OPEN, State.HALF_OPEN)
        elif made.reason == "probes_succeeded":
            assert (made.previous_state, made.state) == (State.HALF_OPEN, State.CLOSED)
            assert (made.calls, made.failures) == (PROBES, 0)
            assert self.ended[made.previous][Outcome.SUCCESS] >= PROBES, f"{name} closed on {self.ended[made.previous]}"
        elif made.reason == "probes_failed":
            assert (made.previous_state, made.state) == (State.HALF_OPEN, State.OPEN)
            assert made.failures == 1
            assert self.ended[made.previous][Outcome.FAILURE] >= 1, f"{name} opened on {self.ended[made.previous]}"

    def check_news(self) -> None:
        """Of each epoch each replica hears at most once, and at most one says that it made it."""
        everybody = (*self.members, *self.dead)
        makers = Counter(itertools.chain.from_iterable(map(set, (member.made for member in everybody))))
        assert all(count == 1 for count in makers.values()), f"made by several: {makers.most_common(1)}"
        for member in everybody:
            heard = Counter(one.transition.epoch for one in member.applied if not one.local)
            assert self.rewritten or all(count == 1 for count in heard.values()), f"heard twice: {heard.most_common(1)}"

    def check_troubles(self) -> None:
        """No background task has raised."""
        gc.collect()
        assert not self.troubles, self.troubles

    # -- peace

    async def heal(self) -> None:
        """Mend the network, and see all replicas agree with the store, with each other and with `state`."""
        self.forget_verdicts()
        for member in self.members:
            member.store.mend()
        async with self._traffic():
            await self._await(self._agreed, "all replicas to agree with the store")

    async def recover(self) -> None:
        """See every circuit close, and count every call once, now that the dependency is well."""
        for one in list(self.running):
            self.end(one, Outcome.SUCCESS)
        for name in POLICIES:
            await self.breaker(self.members[0], name).override(None, author="test", reason="peace")
        for _ in range(2):  # what hung until now may take its replica into local mode once more
            async with self._traffic():
                await self._await(self._closed, "all circuits to close")
            await asyncio.gather(*(member.breakers.flush() for member in self.members))
        before = [(await self.breaker(self.members[0], name).read()).counts.calls for name in POLICIES]
        for member, name in itertools.product(self.members, POLICIES):
            one = await self.admit(member, name)
            assert one
            self.end(one, Outcome.SUCCESS)
        await asyncio.gather(*(member.breakers.flush() for member in self.members))
        after = [(await self.breaker(self.members[0], name).read()).counts.calls for name in POLICIES]
        counted = [b - a for a, b in zip(before, after, strict=True)]
        assert counted == [len(self.members)] * len(POLICIES), (
            f"of {len(self.members)} calls each {counted} are counted"
        )

    @contextlib.asynccontextmanager
    async def _traffic(self) -> Any:
        tasks = [asyncio.create_task(self._use(member, name)) for member in self.members for name in POLICIES]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks)
            for task in done:
                if not task.cancelled():
                    task.result()

    async def _use(self, member: Member, name: str) -> None:
        while True:
            if one := await self.admit(member, name):
                self.end(one, Outcome.SUCCESS)
            await asyncio.sleep(0.02)

    async def _await(self, condition: Any, what: str) -> None:
        for _ in range(500):
            if (wrong := await condition()) is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited 5 s for {what}: {wrong}")

    async def _agreed(self) -> str | None:
        if waiting := [member.breakers.replica for member in self.members if member.store.recovering]:
            return f"{waiting} wait for an answer"
        for name in POLICIES:
            state, record = await self.raw.mget(self.key(name, "state"), self.key(name, "v1:epoch"))
            try:
                made = parse((record or b"").decode())
            except ValueError as garbage:
                return f"{name}: {garbage}"
            if state != made.state.encode():
                return f"{name}: state is {state!r}, the record {made}"
            for member in self.members:
                seen = self.breaker(member, name).snapshot
                if (seen.epoch, seen.local, seen.provisional) != (str(made.epoch), False, False):
                    return f"{name}: the store has {made}, {member.breakers.replica} sees {seen}"
        return None

    async def _closed(self) -> str | None:
        if wrong := await self._agreed():
            return wrong
        seen = {name: self.breaker(self.members[0], name).state for name in POLICIES}
        return None if set(seen.values()) == {State.CLOSED} else str(seen)
