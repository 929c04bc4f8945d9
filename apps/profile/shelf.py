"""The fleet's memory of what auth said, in Redis: one hash per user, and one script that adds to it and reads it.

Key `<prefix>:profile:known:<user>`; it ends by itself when it is too old to be served.
"""

import hashlib
import json
from importlib import resources
from math import inf
from typing import Any

from redis.exceptions import NoScriptError

from apps.profile.clock import StoreClock
from apps.profile.known import Answer, Known, Roles

_MICRO = 1_000_000
_NEVER = 2**53
_REFUSED = "-"


class Shelf:
    """Each call is one round trip and raises what `apps.shared.redis.AWAY` names."""

    def __init__(self, client: Any, prefix: str, life: float, clock: StoreClock) -> None:
        """Keep records for `life` seconds; tell `clock` of every exchange."""
        self._client = client
        self._prefix = f"{prefix}:profile:known:"
        self._life = round(life * 1000)
        self._clock = clock
        self._script = (resources.files("apps.profile") / "known.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def warm(self) -> None:
        """Load the script, so that no request pays for it."""
        await self._client.script_load(self._script)

    async def look_at_clock(self) -> None:
        """Ask for the time."""
        sent = self._clock.local()
        seconds, micros = await self._client.time()
        self._clock.heard(sent, seconds + micros / _MICRO)

    async def exchange(self, user: str, answers: Known = ()) -> tuple[Known, float]:
        """Add answers, dated by Redis's clock, and return those that may be the last, and Redis's time."""
        words: list[object] = [self._life]
        for answer in answers:
            words += [_text(answer.roles), *map(_micro, (answer.asked, answer.answered, answer.expires))]
        sent = self._clock.local()
        try:
            reply = await self._client.evalsha(self._sha, 1, self._prefix + user, *words)
        except NoScriptError:
            sent = self._clock.local()
            reply = await self._client.eval(self._script, 1, self._prefix + user, *words)
        now = int(reply[0]) / _MICRO
        self._clock.heard(sent, now)
        return tuple(_answer(*pair) for pair in zip(reply[1::2], reply[2::2], strict=True)), now

    async def aclose(self) -> None:
        """Disconnect."""
        await self._client.aclose()


def _micro(seconds: float) -> int:
    return _NEVER if seconds == inf else max(0, int(seconds * _MICRO))


def _text(roles: Roles | None) -> str:
    return _REFUSED if roles is None else json.dumps(roles)


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
