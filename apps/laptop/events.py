"""Transitions, as the replicas' event streams tell of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

Told = dict[str, dict[str, Any]]
"""What each replica told of one transition."""

_AGAIN = 0.5  # seconds until a stream that broke is asked for again


class Events:
    """One replica's event stream, for as long as `follow` runs."""

    def __init__(self, url: str, heard: Callable[[dict[str, Any]], None]) -> None:
        """Call `heard` with each transition: as the event has it, or from the snapshot that a stream begins with."""
        self.connected = asyncio.Event()
        self._url = f"{url}/breakers/events"
        self._heard = heard

    async def follow(self) -> None:
        """Read, and begin again if the stream breaks."""
        timeout = httpx.Timeout(5, read=None)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    async with client.stream("GET", self._url) as response:
                        await self._read(response)
                await asyncio.sleep(_AGAIN)

    async def _read(self, response: httpx.Response) -> None:
        async for kind, data in _events(response):
            if kind == "snapshot":
                for breaker in data:
                    if breaker["transition"]:
                        self._heard({"breaker": breaker["name"], "transition": breaker["transition"], "local": False})
                self.connected.set()
            elif kind == "transition":
                self._heard(data)


class Fleet:
    """What all replicas told of each transition."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._told: dict[str, Told] = {}  # by epoch, in the order in which they were first heard of
        self._news = asyncio.Event()

    def hear(self, replica: str, applied: dict[str, Any]) -> None:
        """Note what a replica has applied."""
        self._told.setdefault(applied["transition"]["epoch"], {}).setdefault(replica, applied)
        self._news.set()

    def all_in(self, state: str) -> Told | None:
        """Return the last transition if it led to that state and all replicas have applied it."""
        told = list(self._told.values())[-1] if self._told else {}
        there = len(told) == self._replicas and all(one["transition"]["state"] == state for one in told.values())
        return told if there else None

    async def until(self, state: str) -> Told:
        """Wait until that is so."""
        while not (told := self.all_in(state)):
            self._news.clear()
            await self._news.wait()
        return told


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    kind = ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            kind = value
        elif field == "data":
            yield kind, json.loads(value)
