"""The system's processes: each started with what it needs, and known to be ready."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import httpx

from apps.laptop import redis_server
from apps.laptop.children import Child, Children, TroubleError
from apps.laptop.places import Place, Places, RedisPlace
from apps.profile.settings import Settings
from apps.shared.redis import AWAY, connect

_LONGEST = 30.0  # seconds for a start
_PATIENCE = 3.0  # seconds for a Redis that is elsewhere
_AGAIN = 0.02


async def start(children: Children, places: Places) -> dict[str, float]:
    """Start it all and wait until it is ready; return the seconds that each took. Raises `TroubleError`."""
    started: dict[str, float] = {}
    try:
        async with asyncio.timeout(_LONGEST):
            if places.redis:
                started["redis"] = await _start_redis(children, places.redis, places.settings)
            else:
                await _find_redis(places.settings)
            services = [await _start_service(children, place) for place in places.services]
            seconds = await asyncio.gather(*map(_ready, services, places.services))
    except TimeoutError:
        raise TroubleError(f"it was not ready within {_LONGEST:g} s") from None
    return started | {place.name: took for place, took in zip(places.services, seconds, strict=True)}


async def _start_redis(children: Children, place: RedisPlace, settings: Settings) -> float:
    try:
        program = redis_server.find()
    except redis_server.NoServerError as error:
        raise TroubleError(f"{error}, or let REDIS_URL name a Redis elsewhere") from None
    told = redis_server.settings(place.host, place.port, place.user, place.password)
    # It keeps nothing, so that there is nothing it would have to put in order before its end.
    child = await children.start("redis", [program, "-"], os.environ, told=told, end=signal.SIGKILL)
    await _until(lambda: _answers(settings))
    return child.ready(told=False)


async def _find_redis(settings: Settings) -> None:
    """See that there is a Redis where it is said to be."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await _until(lambda: _answers(settings))
    except TimeoutError:
        raise TroubleError(f"REDIS_URL: no Redis answers there within {_PATIENCE:g} s") from None


async def _answers(settings: Settings) -> bool:
    client = connect(settings)
    try:
        await client.ping()
    except AWAY:
        return False
    finally:
        await client.aclose()
    return True


async def _start_service(children: Children, place: Place) -> Child:
    command = [sys.executable, "-m", f"apps.{place.name.partition('-')[0]}"]
    return await children.start(place.name, command, {**os.environ, **place.env})


async def _ready(child: Child, place: Place) -> float:
    async with httpx.AsyncClient(base_url=place.url, trust_env=False) as client:

        async def is_ready() -> bool:
            try:
                return (await client.get("/readyz")).is_success
            except httpx.TransportError:
                return False

        await _until(is_ready)
    return child.ready()


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    while not await check():  # noqa: ASYNC110 - nobody would set an event
        await asyncio.sleep(_AGAIN)
