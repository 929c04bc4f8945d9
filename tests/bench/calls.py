"""What a call costs in its caller's time: microseconds over the bare call.

All libraries are set up at once and take turns within each round, in an order drawn anew, so that
whatever else the machine does falls on all of them. Each figure is the median over the rounds.
"""

import asyncio
import gc
import random
import statistics
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.bench.bounds import Bound
from tests.bench.loops import BARE, Loop
from tests.bench.peers import CALL, CONTEXT, DECORATED, PEERS, REJECTED, Form, commontrip_slow
from tests.bench.progress import say
from tests.support.servers import Server

ROUNDS = 11
_SLICE = 0.03  # seconds that one loop runs
_BARE_CALLS = 200_000

MEMORY, REDIS = "in memory", "with Redis"
SLOW = "commontrip, watching slow calls"

Key = tuple[str, str, str]
"""Library, store, form."""


@dataclass(slots=True)
class Costs:
    """Microseconds a call."""

    over: dict[Key, float] = field(default_factory=dict)
    """Over the bare call; for a rejection, over the bare raising call."""
    whole: dict[Key, float] = field(default_factory=dict)
    """The bare call included."""
    bare: dict[str, float] = field(default_factory=dict)

    def bounds(self) -> list[Bound]:
        """Hold what was measured against what was promised."""
        closed = [bound for form in (DECORATED, CALL) for bound in self._closed(form)]
        block = self.over["purgatory", MEMORY, CONTEXT]
        call, refusal = self._ours(DECORATED, self.over), self._ours(REJECTED, self.over)
        return [
            *closed,
            Bound(f"{CONTEXT}: 2 times purgatory in memory", self._ours(CONTEXT, self.over), 2 * block, "µs"),
            Bound("rejection, over a bare raise: 1.5 times a closed call", refusal, 1.5 * call, "µs"),
        ]

    def rejection_ratio(self) -> float:
        """Return how many closed calls a rejection takes, exception and all."""
        return self._ours(REJECTED, self.whole) / self._ours(DECORATED, self.whole)

    def _closed(self, form: str) -> list[Bound]:
        ours, quick = self._ours(form, self.over), self.over["purgatory", MEMORY, DECORATED]
        parts = (("interlock-cb", 10), ("pybreaker", 300), ("purgatory", 300))
        return [
            Bound(f"closed, {form}: 1.2 times purgatory in memory", ours, 1.2 * quick, "µs"),
            *(
                Bound(f"closed, {form}: 1/{part} of {peer} {REDIS}", ours, self._least(peer) / part, "µs")
                for peer, part in parts
            ),
        ]

    def _ours(self, form: str, costs: dict[Key, float]) -> float:
        return costs["commontrip", REDIS, form]

    def _least(self, peer: str) -> float:
        keys = [(peer, REDIS, form) for form in (DECORATED, CALL)]
        return min(self.over[key] for key in keys if key in self.over)


async def measure(server: Server, rounds: int = ROUNDS) -> Costs:
    """Run all libraries side by side."""
    server.flush()
    async with AsyncExitStack() as stack:
        forms = await _all_forms(stack, server.url)
        counts = {key: await _calls_in_a_slice(form) for key, form in forms.items()}
        gc.collect()
        gc.freeze()
        samples: dict[Key, list[tuple[float, float]]] = defaultdict(list)
        for number in range(rounds):
            say(f"calls: round {number + 1} of {rounds}, {len(forms)} loops")
            await _round(forms, counts, samples)
        gc.unfreeze()
    return _summary(forms, samples)


async def _all_forms(stack: AsyncExitStack, url: str) -> dict[Key, Form]:
    forms: dict[Key, Form] = {}
    for name, adapter in {**PEERS, SLOW: commontrip_slow}.items():
        for store, address in ((MEMORY, None), (REDIS, url)):
            peer = await stack.enter_async_context(adapter(address))
            forms |= {(name, store, form.name): form for form in peer.forms}
    return forms


async def _round(forms: dict[Key, Form], counts: dict[Key, int], samples: dict[Key, list[tuple[float, float]]]) -> None:
    bare = {name: await _cost(loop, _BARE_CALLS) for name, loop in BARE.items()}
    for key in random.sample(list(forms), len(forms)):
        await asyncio.sleep(0)
        samples[key].append((await _cost(forms[key].loop, counts[key]), bare[forms[key].bare]))


async def _calls_in_a_slice(form: Form) -> int:
    await form.loop(100)
    return max(50, round(_SLICE * 1e6 / await _cost(form.loop, 100)))


async def _cost(loop: Loop, calls: int) -> float:
    started = time.perf_counter()
    await loop(calls)
    return (time.perf_counter() - started) / calls * 1e6


def _summary(forms: dict[Key, Form], samples: dict[Key, list[tuple[float, float]]]) -> Costs:
    costs = Costs()
    for key, pairs in samples.items():
        costs.over[key] = statistics.median(whole - bare for whole, bare in pairs)
        costs.whole[key] = statistics.median(whole for whole, _ in pairs)
        costs.bare[forms[key].bare] = statistics.median(bare for _, bare in pairs)
    return costs
