"""The command line in this process, and breakers for it to look at."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from typer.testing import CliRunner, Result

from commontrip import Override
from commontrip.cli._app import app
from commontrip.redis import RedisStore
from tests.breaker.caller import Caller
from tests.support.servers import Server

Situation = Callable[[Caller], Awaitable[object]]
HOUR = 3600.0


class Commands:
    """`commontrip` against one Redis and prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        """Use this place."""
        self.url = url
        self.prefix = prefix
        self.environment = {"REDIS_URL": url, "REDIS_PREFIX": prefix, "REDIS_USERNAME": None, "REDIS_PASSWORD": None}

    def __call__(self, *words: object, **environment: str) -> Result:
        """Run a command; what it raises is raised."""
        given = [str(word) for word in words]
        return CliRunner().invoke(app, given, env=self.environment | environment, catch_exceptions=False)

    def json(self, *words: object, code: int = 0, **environment: str) -> Any:
        """Run a command with --json and return what it printed."""
        done = self(*words, "--json", **environment)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def given(self, work: Situation, name: str = "auth") -> None:
        """Do something to a breaker as a replica would."""

        async def whole() -> None:
            store = RedisStore.from_url(self.url, prefix=self.prefix)
            try:
                await work(Caller(store, name))
            finally:
                await store.aclose()

        asyncio.run(whole())


async def closed(caller: Caller) -> None:
    """Count two failures of three calls, with one of two replicas seeing it."""
    await caller.seed()
    await caller.store.presence("r1", 60.0)
    await caller.store.presence("r2", 60.0)
    await caller.record("ffs")


async def opened(caller: Caller) -> None:
    """Trip it for an hour."""
    await closed(caller)
    await caller.open(HOUR, failures=5, calls=8, error="ValueError")


async def probing(caller: Caller) -> None:
    """Have one probe in flight."""
    await closed(caller)
    await caller.half_open("held", seconds=60.0)


async def forced(caller: Caller, note: str = "ann: drill") -> None:
    """Force it open for an hour."""
    await closed(caller)
    order = {"override": Override.FORCED_OPEN, "override_for": HOUR, "note": note, "reason": "override"}
    await caller.open(HOUR, **order)


def everything(server: Server, prefix: str) -> dict[str, object]:
    """Return all keys of a prefix with what they hold."""
    keys = server.cli("KEYS", f"{prefix}:*")
    found = [str(key) for key in keys] if isinstance(keys, list) else []
    return {key: server.cli("TYPE", key) if key.endswith("seen:r1") else _held(server, key) for key in found}


def _held(server: Server, key: str) -> object:
    return server.cli("EVAL", "return redis.sha1hex(redis.call('DUMP', KEYS[1]))", 1, key)
