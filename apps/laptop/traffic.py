"""Steady requests through the gateway, whatever becomes of them, and what was answered."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from itertools import cycle

import httpx

RATE = 60
"""Requests a second; one is sent whether or not those before it are answered."""
USERS = ("ada", "alan", "grace")


@dataclass(frozen=True)
class Answer:
    """One answer: its status (0 if there was none), where its auth info came from, and why not from auth."""

    status: int
    source: str
    reason: str | None


class Traffic:
    """The users. `answers` are in the order in which they came."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.answers: list[Answer] = []
        self._client = client
        self._url = url
        self._under_way: set[asyncio.Task[None]] = set()

    async def flow(self) -> None:
        """Send until cancelled; what is under way then comes to its end."""
        try:
            for user in cycle(USERS):
                task = asyncio.create_task(self._ask(user))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                await asyncio.sleep(1 / RATE)
        finally:
            await self.settled()

    async def settled(self) -> int:
        """Wait for what is under way now; return how many answers there are then."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        return len(self.answers)

    def tally(self, first: int = 0) -> Counter[str]:
        """Count the answers from number `first` on, by source, and by reason where auth was not asked."""
        return Counter(" ".join(filter(None, (one.source, one.reason))) for one in self.answers[first:])

    async def _ask(self, user: str) -> None:
        answer = Answer(0, "none", None)
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            response = await self._client.get(f"{self._url}/profile/{user}")
            answer = Answer(response.status_code, "none", None)
            auth = response.json()["auth"]
            answer = Answer(response.status_code, auth["source"], auth["reason"])
        self.answers.append(answer)
