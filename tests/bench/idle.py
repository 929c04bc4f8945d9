"""How many commands a second reach Redis while nothing is called, with one breaker and with 10,000."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.bench.bounds import Bound
from tests.bench.peers import PEERS
from tests.bench.progress import say
from tests.bench.server import Watch
from tests.bench.worker import Link, workers
from tests.support.servers import Server

SIZES = (1, 10_000)
_SETTLE = 3.0  # seconds until what the first use has left behind is sent
_SECONDS = 20.0


@dataclass(slots=True)
class Idle:
    """Commands a second."""

    rates: dict[tuple[str, int], float] = field(default_factory=dict)
    """By library and number of breakers."""

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised: the heartbeat."""
        return [
            Bound(f"idle, breakers: {size:,}; Redis commands a second", self.rates["commontrip", size], 0.2)
            for size in SIZES
        ]


async def replica(link: Link, settings: dict[str, Any]) -> None:
    """Make breakers, use each once, and do nothing until told to end."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(PEERS[settings["peer"]](settings["url"]))
        assert peer.many
        await peer.many(settings["size"])
        link.say(ready=True)
        await link.told()


async def measure(server: Server, seconds: float = _SECONDS) -> Idle:
    """Watch all libraries at once, each process in a database of its own."""
    server.flush()
    cases = [(peer, size) for peer in PEERS for size in SIZES]
    address = server.url.rpartition("/")[0]
    settings = [{"peer": peer, "size": size, "url": f"{address}/{db}"} for db, (peer, size) in enumerate(cases)]
    say(f"idle: {len(cases)} processes, with {SIZES[0]} and {SIZES[1]:,} breakers of each library")
    async with workers("idle:replica", settings):
        await asyncio.sleep(_SETTLE)
        say(f"idle: watching for {seconds:g} s")
        with Watch(server) as watch:
            mark = watch.mark()
            await asyncio.sleep(seconds)
            end = watch.mark()
    seen = Counter(one.db for one in watch.seen[mark:end])
    return Idle({case: seen[db] / seconds for db, case in enumerate(cases)})
