"""The fleet's memory of what auth said, in Redis: one hash per user, and one script that adds to it and reads it.

Key `<prefix>:profile:known:<user>` (in a Cluster `<prefix>:{profile}:known:<user>`); it ends by itself when it is too
old to be served. `<prefix>:profile:since` says since when nothing was lost: it is gone when all was.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from math import inf
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError

from apps.profile.clock import StoreClock
from apps.profile.known import Answer, Known, Roles
from apps.shared.redis import AWAY

_PATIENCE = 1.0  # seconds for one round trip
_MICRO = 1_000_000
_NEVER = 2**53
_REFUSED = "-"


class Shelf:
    """Each call is one round trip and raises what `apps.shared.redis.AWAY` names."""

    since = inf
    """Redis's time since when it has lost nothing that was written, as of the last exchange; `inf`: it cannot say."""

    def __init__(self, client: Any, prefix: str, life: float, clock: StoreClock) -> None:
        """Keep records for `life` seconds; tell `clock` of every exchange."""
        self._client = client
        place = "{profile}" if isinstance(client, RedisCluster) else "profile"  # one slot: one clock
        self._prefix = f"{prefix}:{place}:known:"
        self._since = f"{prefix}:{place}:since"
        self._life = round(life * 1000)
        self._clock = clock
        self._waiting: list[tuple[list[object], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._script = (resources.files("apps.profile") / "known.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def warm(self) -> None:
        """Load the script, so that no request pays for it."""
        await self._client.script_load(self._script)

    async def exchange(self, user: str, answers: Known = ()) -> tuple[Known, float]:
        """Add answers, dated by Redis's clock, and return those that may be the last, and Redis's time.

        What is asked in one turn of the event loop is one round trip.
        """
        words: list[object] = [self._prefix + user, self._since, self._life]
        for answer in answers:
            words += [_text(answer.roles), *map(_micro, (answer.asked, answer.answered, answer.expires))]
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, answered))
        if len(self._waiting) == 1:
            sending = asyncio.create_task(self._send())
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        now, known = await answered
        return known, now

    async def aclose(self) -> None:
        """Disconnect."""
        for sending in self._sending:
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._client.aclose()

    async def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            async with asyncio.timeout(_PATIENCE):
                replies = await self._run([words for words, _ in batch])
        except AWAY as error:
            replies = [error] * len(batch)
        except BaseException:
            for _, answered in batch:
                answered.cancel()
            raise
        for (_, answered), reply in zip(batch, replies, strict=True):
            if answered.done():
                continue  # nobody waits any more
            if isinstance(reply, Exception):
                answered.set_exception(reply)
            else:
                answered.set_result((int(reply[0]) / _MICRO, _known(reply)))

    async def _run(self, batch: Sequence[Sequence[object]]) -> list[Any]:
        """Run the script for each; after a loss of scripts once more for all, which adds nothing twice."""
        for again in (False, True):
            sent = self._clock.local()
            async with self._client.pipeline(transaction=False) as pipe:
                for words in batch:
                    pipe.execute_command("EVALSHA", self._sha, 2, *words)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
            if again or not any(isinstance(reply, NoScriptError) for reply in replies):
                break
            await self.warm()
        answers = [reply for reply in replies if not isinstance(reply, Exception)]
        if answers:
            now, since = answers[-1][:2]
            self._clock.heard(sent, int(now) / _MICRO)
            self.since = int(since) / _MICRO if since.isdigit() else inf
        return replies


def _micro(seconds: float) -> int:
    return _NEVER if seconds == inf else max(0, int(seconds * _MICRO))


def _text(roles: Roles | None) -> str:
    return _REFUSED if roles is None else json.dumps(roles)


def _known(reply: Sequence[str]) -> Known:
    return tuple(_answer(*pair) for pair in zip(reply[2::2], reply[3::2], strict=True))


def _answer(text: str, times: str) -> Answer:
    asked, answered, expires = map(int, times.split())
    until = inf if expires == _NEVER else expires / _MICRO
    return Answer(_roles(text), asked / _MICRO, answered / _MICRO, until)


def _roles(text: str) -> Roles | None:
    """Read what `_text` wrote; of what somebody else wrote there nothing is known."""
    try:
        roles = json.loads(text)
    except ValueError:
        return None
    return tuple(roles) if isinstance(roles, list) and all(isinstance(role, str) for role in roles) else None
