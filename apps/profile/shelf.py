"""The fleet's memory of what auth gave, in Redis: one hash per user, one script to write and one to read.

Key `<prefix>:profile:known:<user>`; it ends by itself when it is too old to be served.
"""

import hashlib
import json
from importlib import resources
from math import inf
from typing import Any

from redis.exceptions import NoScriptError

from apps.profile.clock import StoreClock
from apps.profile.known import AuthInfo, Known

_MICRO = 1_000_000


class Shelf:
    """Reads and writes; each call is one round trip and raises what `apps.shared.redis.AWAY` names."""

    def __init__(self, client: Any, prefix: str, life: float, clock: StoreClock) -> None:
        """Keep records for `life` seconds; tell `clock` of every exchange."""
        self._client = client
        self._prefix = f"{prefix}:profile:known:"
        self._life = round(life * 1000)
        self._clock = clock
        self._remember = _Script("remember")
        self._recall = _Script("recall")

    async def remember(self, user: str, known: Known) -> bool:
        """Add an answer, timed by Redis's clock; return whether it stands."""
        info = _text(known.info)
        asked = 0 if known.asked == -inf else _micro(known.asked)
        expires = 0 if known.expires == inf else _micro(known.expires)
        _, stands = await self._run(self._remember, user, info, asked, expires, self._life)
        return bool(stands == info)

    async def recall(self, user: str) -> tuple[Known | None, float]:
        """Return what is remembered, None if nothing is, and Redis's time."""
        now, info, asked, answered, expires = await self._run(self._recall, user)
        if not asked:
            return None, int(now) / _MICRO
        until = int(expires) / _MICRO or inf
        return Known(_info(info), int(asked) / _MICRO, int(answered) / _MICRO, until), int(now) / _MICRO

    async def warm(self) -> None:
        """Load the scripts, so that no request pays for it."""
        for script in (self._remember, self._recall):
            await self._client.script_load(script.text)

    async def look_at_clock(self) -> None:
        """Ask for the time."""
        sent = self._clock.local()
        seconds, micros = await self._client.time()
        self._clock.heard(sent, seconds + micros / _MICRO)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._client.aclose()

    async def _run(self, script: "_Script", user: str, *args: object) -> Any:
        key, sent = self._prefix + user, self._clock.local()
        try:
            reply = await self._client.evalsha(script.sha, 1, key, *args)
        except NoScriptError:
            sent = self._clock.local()
            reply = await self._client.eval(script.text, 1, key, *args)
        self._clock.heard(sent, int(reply[0]) / _MICRO)
        return reply


class _Script:
    def __init__(self, name: str) -> None:
        self.text = (resources.files("apps.profile") / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _micro(seconds: float) -> int:
    return int(seconds * _MICRO)


def _text(info: AuthInfo | None) -> str:
    return json.dumps([info.roles, info.valid_until]) if info else ""


def _info(text: str) -> AuthInfo | None:
    """Read what `_text` wrote; of what somebody else wrote there nothing is known."""
    try:
        roles, valid_until = json.loads(text)
        return AuthInfo(tuple(map(str, roles)), valid_until)
    except (ValueError, TypeError):
        return None
