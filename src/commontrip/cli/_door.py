"""The door to Redis: a `RedisStore` that also says what is there, asks as a tool does, and writes nothing by itself."""

import os
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from commontrip._errors import StoreUnavailableError
from commontrip._redis_url import connect, with_login
from commontrip._store import chunks
from commontrip.cli._facts import Facts
from commontrip.redis import LAYOUT, RedisStore, _lag, _Script, _view

_NAME = "[A-Za-z0-9._-]{1,200}"
_LONGEST = 100_000  # transitions in a history
_AT_ONCE = 1000  # keys of one SCAN: below 1 ms


def is_name(text: str) -> bool:
    """Whether a text can be a breaker's name."""
    return bool(re.fullmatch(_NAME, text))


def place(url: str) -> str:
    """Return an address without login and options, to be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Door(RedisStore):
    """A store for tools. None of the methods here writes anything."""

    def __init__(self, url: str, prefix: str) -> None:
        """Take an address and a prefix; connects nowhere yet. A wrong one is a `ValueError`."""
        # As the services do.
        url = with_login(url, os.environ.get("REDIS_USERNAME", ""), os.environ.get("REDIS_PASSWORD", ""))
        super().__init__(connect(url), prefix=prefix)
        self.place = place(url)
        self.channel = self._head[1]
        self._scripts |= {"peek": _Script(("common", "window", "commit", "peek")), "rights": _Script(("rights",))}

    async def names(self) -> list[str]:
        """Return all breakers, sorted, by SCAN."""
        around = ("{", "}") if self._cluster else ("", "")
        pattern = re.compile(rf"[^:]*:{around[0]}({_NAME}){around[1]}:{LAYOUT}:epoch")
        found = {pattern.fullmatch(key) async for key in self._keys(f":{LAYOUT}:epoch")}
        return sorted({match[1] for match in found if match})

    async def peek(self, names: Sequence[str]) -> list[Facts]:
        """Say what there is of each; what is missing has no transition."""

        async def some(chunk: Sequence[str]) -> list[Facts]:
            replies = await self._run("peek", [key for name in chunk for key in self._block(name)])
            return [
                Facts(name=name, view=_view(reply), window=window / 1000, note=note)
                for name, (*reply, window, note) in zip(chunk, replies, strict=True)
            ]

        return [facts for chunk in chunks(names, 1 if self._cluster else 20) for facts in await some(chunk)]

    async def members(self) -> list[str]:
        """Return who is in the fleet, at most 1,000."""
        return [str(member) for member in await self._run("members", [f"{self.prefix}:replicas"])]

    async def look_at(self, names: Sequence[str]) -> list[Facts]:
        """Say what there is of each, and who of the fleet sees it; three round trips, at most 1,000 replicas."""
        members = await self.members()
        found = await self.peek(names)
        lags: list[Any] = [[]] * len(names)
        if members and names:
            with self._mapped("hmget"):
                pipeline = self.client.pipeline(transaction=False)
                for name in names:
                    pipeline.hmget(self._block(name)[9], members)
                lags = await pipeline.execute(raise_on_error=False)
        return [replace(facts, replicas=_lags(members, said)) for facts, said in zip(found, lags, strict=True)]

    def words(self, error: StoreUnavailableError) -> str:
        """Say what is wrong with Redis, and what now."""
        remedy = "check user, password and rights" if error.misconfigured else "is it there? see `commontrip doctor`"
        return f"Redis at {self.place} did not do {error.operation!r}: {error.cause}; {remedy}"

    async def follow_suit(self, facts: Facts) -> None:
        """Let what is written next last as long as what is there, and cut no history: both are the services' to set."""
        with self._mapped("pttl"):
            left = await self.client.pttl(self._block(facts.name)[0])
        lasting = left - round(facts.transition.cooldown * 1000) if facts.transition else 0
        self._head = (max(self._head[0], lasting), self.channel, _LONGEST)

    async def command(self, *words: Any) -> dict[str, Any]:
        """Send a command that names no key to every master; return the answers by address ('' if there is one)."""
        with self._mapped(str(words[0])):
            if not self._cluster:
                return {"": await self.client.execute_command(*words)}
            await self.client.initialize()
            masters = self.client.get_primaries()
            return {node.name: await self.client.execute_command(*words, target_nodes=node) for node in masters}

    async def lasting(self, most: int) -> tuple[int, list[str]]:
        """Return how many keys were looked at, `most` at most, and which of them have no TTL."""
        keys: set[str] = set()
        async for key in self._keys(""):
            keys.add(key)
            if len(keys) == most:
                break
        with self._mapped("pttl"):
            pipeline = self.client.pipeline(transaction=False)
            for key in sorted(keys):
                pipeline.pttl(key)
            left = await pipeline.execute()
        return len(keys), [key for key, ms in zip(sorted(keys), left, strict=True) if ms == -1]

    async def cached(self) -> tuple[int, int]:
        """Return how many of our scripts the server's cache holds (of several masters the poorest), and of how many."""
        hashes = [script.sha for script in self._scripts.values()]
        held = await self.command("SCRIPT EXISTS", *hashes)
        return min(sum(map(int, known)) for known in held.values()), len(hashes)

    async def lacking(self) -> list[str]:
        """Return the commands that a replica needs and this user may not run; SUBSCRIBE aside."""
        missing = await self._run("rights", self._block("commontrip-doctor")[:1], f"{self.prefix}:replicas")
        return [str(command) for command in missing]

    async def _keys(self, ending: str) -> AsyncIterator[str]:
        with self._mapped("scan"):
            async for key in self.client.scan_iter(match=f"{self.prefix}:*{ending}", count=_AT_ONCE):
                yield key


def _lags(members: Sequence[str], said: Any) -> dict[str, float | None]:
    """Put together who is there and what was noted; a key of a wrong type says nothing of anybody."""
    noted = said if isinstance(said, list) and said else [None] * len(members)
    return {member: _lag(ms) for member, ms in zip(members, noted, strict=True)}
