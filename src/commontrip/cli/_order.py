"""An operator's order, given exactly as `Breaker.override` gives it, by somebody who is no replica."""

import logging
import os
import socket
import time

from commontrip import Breaker, Breakers, Override, Policy, Snapshot
from commontrip._circuit import Circuit
from commontrip._replica import Replica
from commontrip._transition import word
from commontrip.cli._door import Door
from commontrip.cli._facts import Facts


async def give(
    door: Door, facts: Facts, order: Override | None, *, author: str, reason: str, seconds: float
) -> Snapshot:
    """Order the fleet; see `Breaker.override`. Raises `ValueError`, `StoreUnavailableError`."""
    logging.getLogger("commontrip").addHandler(logging.NullHandler())  # what happened is said once, by the caller
    await door.follow_suit(facts)
    return await _breaker(door, facts.name).override(order, author=author, reason=reason, seconds=seconds)


def _breaker(door: Door, name: str) -> Breaker:
    # The replica is never started: it is in no fleet, sends no heartbeat, and looks at nothing.
    who = word(f"commontrip-cli-{socket.gethostname()}-{os.getpid()}")
    replica = Replica(door, Breakers(door), (), budget=1.0, rate=5000.0, clock=time.monotonic, name=who)
    return Breaker(Circuit(name, Policy(), replica))
