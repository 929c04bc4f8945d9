"""Waiting for a condition, never for a time."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 5.0
"""Seconds of store budget where a busy machine is not what a test is about."""
_INTERVAL = 0.005


def wait_until(condition: Callable[[], bool], what: str, within: float = 10.0) -> None:
    """Return once the condition holds; raise `TimeoutError` naming `what` after `within` s."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within:g} s for {what}")
        time.sleep(_INTERVAL)


async def eventually(condition: Callable[[], bool], what: str, within: float = 10.0) -> None:
    """Do the same without blocking the event loop."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within:g} s for {what}")
        await asyncio.sleep(_INTERVAL)
