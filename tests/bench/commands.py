"""How many commands a call sends to Redis, seen at the server: closed, refused, and as a probe."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from commontrip import Breakers, ConsecutiveFailures, Cooldown, Policy, State, SuccessRatio
from commontrip.redis import RedisStore
from tests.bench.bounds import Bound
from tests.bench.loops import answer
from tests.bench.peers import DECORATED, PEERS, REJECTED, DownError, fail
from tests.bench.progress import say
from tests.bench.server import Watch
from tests.support.servers import Server
from tests.support.waiting import eventually

_CALLS = 100
_LASTS, _LEASE = 1.0, 0.6  # seconds of a probe, and of its lease
_PATH = ("lease", "settle")  # what a probe's caller waits for


@dataclass(slots=True)
class Commands:
    """Commands on the caller's path."""

    closed: dict[str, float] = field(default_factory=dict)
    """A call, by library."""
    refused: dict[str, float] = field(default_factory=dict)
    before_probe: Counter[str] = field(default_factory=Counter)
    after_probe: Counter[str] = field(default_factory=Counter)
    while_probing: Counter[str] = field(default_factory=Counter)

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        before, after = (sum(seen[name] for name in _PATH) for seen in (self.before_probe, self.after_probe))
        return [
            Bound("Redis commands on the caller's path, closed", self.closed["commontrip"], 0),
            Bound("Redis commands on the caller's path, open", self.refused["commontrip"], 0),
            Bound("Redis commands before a probe", before, 1),
            Bound("Redis commands after a probe", after, 1),
            Bound(f"renewals of a probe that takes {_LASTS:g} s", self.while_probing["lease"], _LASTS / (_LEASE / 3)),
        ]


async def measure(server: Server) -> Commands:
    """Count for every library that has Redis."""
    say(f"commands: {_CALLS} calls of each library, one after another")
    server.flush()
    found = Commands()
    with Watch(server) as watch:
        for name in PEERS:
            await _peer(server, watch, name, found)
        await _probe(server, watch, found)
    return found


async def _peer(server: Server, watch: Watch, name: str, found: Commands) -> None:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(PEERS[name](server.url))
        for form, into in ((DECORATED, found.closed), (REJECTED, found.refused)):
            loop = next(one.loop for one in peer.forms if one.name == form)
            await loop(1)
            mark = watch.mark()
            await loop(_CALLS)
            into[name] = watch.since(mark).total() / _CALLS


async def _probe(server: Server, watch: Watch, found: Commands) -> None:
    cooldown = Cooldown(initial=0.1, jitter=0)
    policy = Policy(trip=ConsecutiveFailures(1), recover=SuccessRatio(1, 1), cooldown=cooldown, probe_lease=_LEASE)
    async with Breakers(RedisStore.from_url(server.url, prefix="probe")) as breakers:
        breaker = breakers.get("probed", policy)
        try:
            await breaker.call(fail)
        except DownError:
            await eventually(lambda: breaker.state == State.OPEN, "the circuit to open")
        await asyncio.sleep(cooldown.initial + 0.3)  # whatever the transition still sends has come
        mark = watch.mark()
        async with breaker:
            await answer()
            found.before_probe = watch.since(mark)
            mark = watch.mark()
            await asyncio.sleep(_LASTS)
            found.while_probing = watch.since(mark)
            mark = watch.mark()
        found.after_probe = watch.since(mark)
