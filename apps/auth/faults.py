"""Faults on demand: one at a time, the same for all replicas of auth, and never without an end.

The fault stands in Redis with its expiry; every replica looks ten times a second and remembers what it saw until
that expiry. Without Redis no fault can be ordered, and none outlives its time.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from apps.shared.redis import AWAY

logger = logging.getLogger("apps.faults")

_LOOK_EVERY = 0.1
_LOOK_AGAIN = 0.5  # after Redis was away
_PATIENCE = 1.0  # seconds for one command


class Fault(BaseModel):
    """What is done to a share of the requests for users; `slow` does nothing but take its time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["error", "hang", "truncate", "refuse", "slow"]
    rate: float = Field(1.0, ge=0, le=1)
    status: int = Field(503, ge=400, le=599)
    retry_after_seconds: int | None = Field(None, ge=0, le=3600)
    latency_seconds: float = Field(0.0, ge=0, le=60)
    expires_seconds: float = Field(gt=0)


class Faults:
    """The fault of the moment."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}:faults:auth"
        self._fault: Fault | None = None
        self._until = 0.0
        self._orders = 0
        self._change = asyncio.Event()
        self._drained = False

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at Redis for as long as this lasts; it need not be there."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            with contextlib.suppress(*AWAY):
                await self._client.aclose()

    @property
    def now(self) -> tuple[Fault, float] | None:
        """The fault and the seconds that it still lasts."""
        left = self._until - monotonic()
        return (self._fault, left) if self._fault and left > 0 and not self._drained else None

    def strike(self) -> Fault | None:
        """Return the fault if it hits this request."""
        now = self.now
        return now[0] if now and random.random() < now[0].rate else None  # noqa: S311 - no secret

    async def over(self, fault: Fault) -> None:
        """Wait until a fault has expired, was replaced or taken back."""
        while (now := self.now) and now[0] == fault:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), now[1])

    def drain(self) -> None:
        """Spoil nothing any more: who hangs is let go."""
        self._drained = True
        self._changed()

    async def order(self, fault: Fault) -> None:
        """Order a fault for all replicas; here it holds at once, elsewhere within 200 ms. Raises what `AWAY` names."""
        async with asyncio.timeout(_PATIENCE):
            await self._client.set(self._key, fault.model_dump_json(), px=max(1, round(fault.expires_seconds * 1000)))
        self._orders += 1
        self._keep(fault, fault.expires_seconds)

    async def take_back(self) -> None:
        """End the fault for all replicas. Raises what `AWAY` names."""
        async with asyncio.timeout(_PATIENCE):
            await self._client.delete(self._key)
        self._orders += 1
        self._keep(None, 0.0)

    async def _watch(self) -> None:
        away = False
        while True:
            try:
                orders = self._orders
                async with asyncio.timeout(_PATIENCE):
                    found, left = await self._look()
                away = False
                if orders == self._orders:  # else it may be what was there before the order
                    self._keep(Fault.model_validate_json(found) if found else None, left)
            except (*AWAY, ValueError) as error:
                if not away:
                    logger.warning("faults cannot be looked up: %s", type(error).__name__)
                away = True
            await asyncio.sleep(_LOOK_AGAIN if away else _LOOK_EVERY)

    async def _look(self) -> tuple[str | None, float]:
        async with self._client.pipeline(transaction=False) as pipe:
            found, left = await pipe.get(self._key).pttl(self._key).execute()
        return found, left / 1000

    def _keep(self, fault: Fault | None, left: float) -> None:
        changed = fault != self._fault
        self._fault, self._until = fault, monotonic() + left
        if changed:
            self._changed()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
