"""Steady callers of the gateway: few, bounded in rate, and with every answer on record."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Self

import httpx

from tests.support.waiting import eventually

ROLES = {
    "ada": ["admin", "editor"],
    "alan": ["editor"],
    "grace": ["editor", "reader"],
    "mallory": None,  # whom auth refuses
    "nobody": None,
}
"""What the sample files say of users."""


@dataclass(frozen=True)
class Answer:
    """One request, and what came of it."""

    user: str
    status: int = 0
    """0 if there was no whole answer; then `error` says why."""
    body: Any = None
    error: str = ""

    @property
    def source(self) -> str:
        """Where the auth info came from, or what came instead."""
        return str(self.body["auth"]["source"]) if self.status == httpx.codes.OK else self.error or str(self.status)

    @property
    def proper(self) -> bool:
        """Whether it says where its auth info came from, with its age, and gives no right that auth did not."""
        if self.status != httpx.codes.OK or self.body["user_id"] != self.user:
            return False
        auth, roles = self.body["auth"], ROLES[self.user]
        age, given, reason = auth["age_seconds"], auth["roles"], auth["reason"]
        return bool(
            {
                "live": age == 0.0 and given == (roles or []) and auth["refused"] == (roles is None) and not reason,
                "stale": roles and isinstance(age, float) and 0 <= age < 300 and given == roles and reason,
                "unknown": age is None and given == [] and reason,
            }.get(auth["source"])
        )


class Traffic:
    """Callers in turn, while it is entered: each asks, and pauses."""

    def __init__(self, url: str, callers: int = 6, pause: float = 0.03) -> None:
        """Ask at `url`, at most `callers / pause` times a second."""
        self.answers: list[Answer] = []
        self._url = url
        self._had = [0] * callers
        self._pause = pause
        self._users = cycle(ROLES)
        self._stopped = False

    async def __aenter__(self) -> Self:
        """Begin."""
        self._client = httpx.AsyncClient(base_url=self._url, timeout=20, trust_env=False)
        self._tasks = [asyncio.create_task(self._ask_on(caller)) for caller in range(len(self._had))]
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Stop, once what was asked is answered."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    @property
    def improper(self) -> list[Answer]:
        """The answers that are not as they should be, however things are."""
        return [answer for answer in self.answers if not answer.proper]

    @property
    def sources(self) -> Counter[str]:
        """How many answers came from where."""
        return Counter(answer.source for answer in self.answers)

    async def more(self, count: int, *, source: str = "", within: float = 20.0) -> list[Answer]:
        """Wait for so many more answers, of one source if given, and return all that came meanwhile."""
        start = len(self.answers)

        def enough() -> bool:
            return sum(source in ("", answer.source) for answer in self.answers[start:]) >= count

        await eventually(enough, f"{count} more answers {source}", within)
        return self.answers[start:]

    async def each(self, count: int, within: float = 20.0) -> list[Answer]:
        """Wait until every caller, so none is stuck, has got so many more answers; return all that came meanwhile."""
        start, had = len(self.answers), list(self._had)

        def enough() -> bool:
            return all(now - before >= count for now, before in zip(self._had, had, strict=True))

        await eventually(enough, f"{count} more answers to each caller", within)
        return self.answers[start:]

    async def _ask_on(self, caller: int) -> None:
        while not self._stopped:
            self.answers.append(await self._ask(next(self._users)))
            self._had[caller] += 1
            await asyncio.sleep(self._pause)

    async def _ask(self, user: str) -> Answer:
        try:
            response = await self._client.get(f"/profile/{user}")
            return Answer(user, response.status_code, response.json())
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            return Answer(user, error=f"{type(error).__name__}: {error}")


async def comes(check: Callable[[], Any], what: str, within: float = 20.0) -> None:
    """Wait until a check that blocks, run in a thread, holds."""
    clock = asyncio.get_running_loop().time
    until = clock() + within
    while not await asyncio.to_thread(check):
        if clock() > until:
            raise TimeoutError(f"waited {within:g} s for {what}")
        await asyncio.sleep(0.02)
