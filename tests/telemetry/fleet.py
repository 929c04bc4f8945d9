"""Replicas of profile as processes, with an auth that answers as the test says, and what all of them export to."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Self

import httpx
from redis.asyncio import Redis

from commontrip import State, Transition
from commontrip._transition import parse
from commontrip.redis import RedisStore
from tests.support.servers import Server
from tests.support.system import Service
from tests.support.waiting import eventually

COOLDOWN = 0.1
POLICY = {
    "profile_breaker_failure_rate": 0,
    "profile_breaker_consecutive_failures": 1,
    "profile_breaker_cooldown_seconds": COOLDOWN,
    "profile_breaker_cooldown_factor": 1,
    "profile_breaker_cooldown_jitter": 0,
    "profile_breaker_probes": 1,
    "profile_breaker_success_ratio": 1,
    "profile_breaker_store_budget_seconds": 1,
    "profile_fallback": "unknown",
}
"""Opens at the first failure, closes at the first success."""


class Auth:
    """Stands for auth: `good`, it knows everybody; else it fails. Answers nothing while it is not `released`."""

    def __init__(self) -> None:
        """Be good."""
        self.good = True
        self.waiting = 0
        self.headers: list[list[tuple[str, str]]] = []
        """What it was asked with, in lower case."""
        self.released = asyncio.Event()
        self.released.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.released.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                self.headers.append([(k.lower(), v) for k, _, v in (line.partition(": ") for line in lines)])
                self.waiting += 1
                await self.released.wait()
                self.waiting -= 1
                user = request.split()[1].rpartition("/")[2]
                body = json.dumps({"user_id": user, "roles": [], "valid_for_seconds": None}).encode()
                status = "200 OK" if self.good else "500 No"
                head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
        writer.close()


class Fleet:
    """So many replicas on one Redis; `otel` are their OTEL_ variables."""

    def __init__(self, server: Server, prefix: str, auth: Auth, directory: Path, size: int, **otel: str) -> None:
        """Prepare them."""
        self._server, self._prefix, self._auth = server, prefix, auth
        common = {"redis_url": server.url, "redis_prefix": prefix, "profile_auth_url": auth.url, **POLICY}
        common |= {"drain_seconds": 0, "otel_bsp_schedule_delay": 200, **otel}
        self._directory, self._settings, self._size = directory, common, size
        self.made: list[Service] = []
        """All that were ever started."""
        self.all: list[Service] = []
        """Those that live and know the breaker."""
        self._client = httpx.AsyncClient(timeout=10)
        self._redis = Redis.from_url(server.url, decode_responses=True)

    async def __aenter__(self) -> Self:
        for one in [self.spare() for _ in range(self._size)]:
            await self.join(one)
        return self

    async def __aexit__(self, *raised: object) -> None:
        for one in self.made:
            one.close()
        await self._client.aclose()
        await self._redis.aclose()

    def spare(self) -> Service:
        """Launch one more."""
        self.made.append(Service("profile", self._directory, self._settings, f"profile-{len(self.made)}"))
        return self.made[-1].launch()

    async def join(self, one: Service) -> None:
        """Wait until it is ready, and let it learn of the breaker by a call that succeeds."""
        await asyncio.to_thread(one.ready)
        assert (await self.ask(one))["source"] == "live"
        self.all.append(one)

    async def ask(self, one: Service, **headers: str) -> dict[str, Any]:
        """Ask it for a profile and return the auth info in it; {} if it dies meanwhile."""
        try:
            answer = await self._client.get(f"{one.url}/profile/ada", headers=headers)
        except httpx.TransportError:
            return {}
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["auth"]
        return found

    async def trip(self, one: Service) -> None:
        """Let one call fail, and wait until all know that the circuit is open."""
        self._auth.good = False
        await self.ask(one)
        self._auth.good = True
        await self.everywhere(State.OPEN)

    async def recover(self, one: Service) -> None:
        """Let one replica's probe succeed, and wait until all know of each of the two steps."""
        self._auth.released.clear()
        probe = asyncio.create_task(self._probe(one))
        await self.everywhere(State.HALF_OPEN)
        await eventually(lambda: self._auth.waiting > 0, "the probe to arrive")
        self._auth.released.set()
        await self.everywhere(State.CLOSED)
        await probe

    async def _probe(self, one: Service) -> None:
        while (await self.ask(one))["source"] != "live":  # noqa: ASYNC110 - another process says so
            await asyncio.sleep(COOLDOWN / 5)

    async def everywhere(self, state: State, within: float = 15.0) -> None:
        """Wait until every replica has learned of the current epoch, and that is this state."""
        seen: tuple[Any, int] = (None, 0)
        async with asyncio.timeout(within):
            while seen != (state, len(self.all)):
                await asyncio.sleep(0.005)
                learned: Any = self._redis.hlen(f"{self._prefix}:auth:v1:learned")
                seen = (await self._redis.get(f"{self._prefix}:auth:state"), await learned)

    async def trip_and_kill(self, one: Service) -> None:
        """Let one call fail, and kill whoever opens the circuit (SIGKILL) as soon as that is published."""
        pubsub = self._redis.pubsub()
        await pubsub.subscribe(f"{self._prefix}:events")
        await pubsub.get_message(timeout=5)
        self._auth.good = False
        asking = asyncio.create_task(self.ask(one))
        async for message in pubsub.listen():
            made = parse(message["data"].partition(" ")[2]) if message["type"] == "message" else None
            if made and made.state == State.OPEN:
                break
        maker = next(one for one in self.all if made and f"-{one.pid}-" in made.replica)
        os.kill(maker.pid, signal.SIGKILL)
        self._auth.good = True
        await asking
        self.all.remove(maker)
        await asyncio.to_thread(maker.close)
        await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def history(self) -> list[Transition]:
        """Return all transitions that were made, the oldest first; a seed is none."""
        store = RedisStore.from_url(self._server.url, prefix=self._prefix)
        found = await store.history("auth", 1000)
        await store.aclose()
        return [made for made, _ in reversed(found) if not made.is_seed]
