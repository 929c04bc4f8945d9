"""The services under load: the whole system's requests a second, and what the breaker costs profile and saves it."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.bounds import Bound
from tests.bench.client import CONNECTIONS, Run, requests
from tests.bench.pairs import STARTS, WARM, Pairs, compare, turn
from tests.bench.progress import say
from tests.bench.services import MODULE, USERS, Environment, Service, running, users
from tests.support.servers import Server

REPLICAS = 3
_SECONDS, _WARM = 2.0, 0.5
_MANY_USERS = 20_000
_WITHOUT = {"PROFILE_BREAKER_ENABLED": "false", "PROFILE_FALLBACK": "unknown"}
_STAYS_OPEN = {"PROFILE_BREAKER_COOLDOWN_SECONDS": "3600", "PROFILE_BREAKER_COOLDOWN_MAXIMUM_SECONDS": "3600"}

GUARDED = "breaker and memory"
STRANGERS = "breaker and memory, each user new"
OPEN = "circuit open, auth gone"
TOLD = "commontrip's telemetry, beside the stock instrumentation"
STOCK = "the stock instrumentation"


@dataclass(slots=True)
class System:
    """What was measured."""

    runs: dict[str, Run] = field(default_factory=dict)
    """The whole system, by how many callers there were."""
    pairs: dict[str, Pairs] = field(default_factory=dict)
    """Profile with something, and without it."""

    def bounds(self) -> list[Bound]:
        """Hold them against what was promised."""
        promised = {GUARDED: 0.97, OPEN: 2.0, TOLD: 0.97}
        return [
            Bound(f"profile, {name}: requests a second, in those without", self.pairs[name].throughput, least=least)
            for name, least in promised.items()
        ]


async def measure(server: Server, starts: int = STARTS) -> System:
    """Measure each part with services of its own."""
    server.flush()
    found = System()
    with tempfile.TemporaryDirectory(prefix="commontrip-") as folder:
        few, many = _Place(server, Path(folder), USERS), _Place(server, Path(folder), _MANY_USERS)
        found.runs = await few.whole()
        found.pairs[GUARDED] = await few.guarded(GUARDED, starts + 3)
        found.pairs[STRANGERS] = await many.guarded(STRANGERS, 2, warm=300)
        found.pairs[OPEN] = await few.opened(starts - 3)
        found.pairs[TOLD] = await few.told(starts - 1)
        found.pairs[STOCK] = await few.stock(2)
    return found


class _Place:
    """Where the services are started: a Redis, and so many users."""

    def __init__(self, server: Server, folder: Path, count: int) -> None:
        self._count = count
        self._redis = {"REDIS_URL": server.url}
        self._for_auth, self._for_profile = users(folder, count)

    async def whole(self) -> dict[str, Run]:
        """Ask through gateway, three profiles and auth."""
        say("system: gateway, profile, auth")
        async with AsyncExitStack() as stack, self._auth() as auth:
            settings = self._profile(auth, "whole")
            profiles = [await stack.enter_async_context(running("profile", settings)) for _ in range(REPLICAS)]
            routes = ",".join(profile.url for profile in profiles)
            gateway = await stack.enter_async_context(running("gateway", {"GATEWAY_ROUTES": f"/profile={routes}"}))
            asked, found = requests(self._count), {}
            await turn(gateway, asked, _WARM)
            for callers in (1, CONNECTIONS):
                run = await turn(gateway, asked, _SECONDS, callers)
                found[f"{callers} caller{'s' * (callers > 1)}"] = run.only("live")
            return found

    async def guarded(self, what: str, starts: int, warm: int = WARM) -> Pairs:
        """Compare profile as it is with one that only asks."""
        async with self._auth() as auth:
            sides = self._profile(auth, "with"), {**self._profile(auth, "without"), **_WITHOUT}
            return (await compare(what, *sides, starts=starts, users=self._count, warm=warm)).only("live", "live")

    async def opened(self, starts: int) -> Pairs:
        """Compare profile whose auth has gone with one whose auth is there."""
        async with self._auth() as auth, self._auth() as doomed:

            async def trip(first: Service, _: Service) -> None:
                await doomed.kill()
                await turn(first, requests(self._count), _WARM)

            sides = {**self._profile(doomed, "open"), **_STAYS_OPEN}, self._profile(auth, "closed")
            return (await compare(OPEN, *sides, prepare=trip, starts=starts)).only("stale", "live")

    async def told(self, starts: int) -> Pairs:
        """Compare profile that tells a collector of everything with one that tells it of requests only."""
        async with self._auth() as auth, _collector() as collector:
            told, untold = self._profile(auth, "told"), self._profile(auth, "untold")
            return (await compare(TOLD, {**told, **collector}, {**untold, **collector, **_UNTOLD}, starts=starts)).only(
                "live", "live"
            )

    async def stock(self, starts: int) -> Pairs:
        """Compare profile that tells a collector of requests only with one that has no collector."""
        async with self._auth() as auth, _collector() as collector:
            sides = {**self._profile(auth, "stock"), **collector, **_UNTOLD}, self._profile(auth, "plain")
            return (await compare(STOCK, *sides, starts=starts)).only("live", "live")

    def _auth(self) -> Any:
        return running("auth", {**self._redis, **self._for_auth})

    def _profile(self, auth: Service, prefix: str) -> Environment:
        return {**self._redis, **self._for_profile, "PROFILE_AUTH_URL": auth.url, "REDIS_PREFIX": prefix}


_UNTOLD = {MODULE: "tests.bench.untold"}


@contextlib.asynccontextmanager
async def _collector() -> AsyncIterator[Environment]:
    """Take spans and throw them away; gives what sends them here."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
