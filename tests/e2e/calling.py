"""What runs in the caller's pod: orders come as lines of JSON, and answers go back so, each with its order's number.

`ask`: requests, all at once. `load`: steady requests until `stop`, which tells what came of them. `stream`: an event
stream, opened; `ended`: how it ended.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx

KEPT = httpx.AsyncClient(timeout=30, trust_env=False, verify=False)  # noqa: S501 - there is no TLS
NEW = httpx.AsyncClient(
    timeout=30,
    trust_env=False,
    verify=False,  # noqa: S501
    limits=httpx.Limits(max_keepalive_connections=0),
    headers={"connection": "close"},
)


async def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send requests at the same time; status 0 is no answer."""
    return list(await asyncio.gather(*(one(**request) for request in requests)))


async def one(url: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
    """Send a request on a connection of its own."""
    began = time.monotonic()
    try:
        answer = await NEW.request(method, url, json=body)
    except httpx.HTTPError as error:
        return {"status": 0, "body": repr(error), "seconds": time.monotonic() - began}
    kind = answer.headers.get("content-type", "")
    found = answer.json() if "json" in kind else answer.text
    return {"status": answer.status_code, "body": found, "seconds": time.monotonic() - began}


class Load:
    """Callers who ask and pause, half of them on connections that they keep."""

    def __init__(self, url: str, callers: int, pause: float) -> None:
        self.sources: Counter[str] = Counter()
        self.failures: list[str] = []
        self.longest = 0.0
        self._url, self._pause = url, pause
        self._stopped = False
        self._tasks = [asyncio.create_task(self._go_on(NEW if each % 2 else KEPT)) for each in range(callers)]

    async def _go_on(self, client: httpx.AsyncClient) -> None:
        while not self._stopped:
            began = time.monotonic()
            try:
                answer = await client.get(self._url)
                if answer.status_code == httpx.codes.OK:
                    self.sources[answer.json()["auth"]["source"]] += 1
                else:
                    self.failures.append(f"{answer.status_code} {answer.text}")
            except httpx.HTTPError as error:
                self.failures.append(f"{'a new' if client is NEW else 'a kept'} connection: {error!r}")
            self.longest = max(self.longest, time.monotonic() - began)
            await asyncio.sleep(self._pause)

    async def stop(self) -> dict[str, Any]:
        """Let what was asked be answered, and tell."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        return {"sources": self.sources, "failures": self.failures, "longest": self.longest}


class Stream:
    """An event stream, read until it ends."""

    def __init__(self, url: str) -> None:
        self.first = asyncio.Event()
        self.task = asyncio.create_task(self._read(url))

    async def _read(self, url: str) -> str:
        try:
            async with NEW.stream("GET", url, timeout=httpx.Timeout(30, read=None)) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("event:"):
                        self.first.set()
        except httpx.HTTPError as error:
            return repr(error)
        return "in order"


class Desk:
    """Takes orders."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._stream: Stream | None = None

    async def do(self, number: int, what: str, words: dict[str, Any]) -> None:
        """Carry one out, and answer."""
        try:
            found = await getattr(self, f"_on_{what}")(**words)
        except Exception as error:  # noqa: BLE001 - whoever gave the order shall hear of it
            found = {"error": repr(error)}
        sys.stdout.write(json.dumps({"number": number, "found": found}) + "\n")
        sys.stdout.flush()

    async def _on_ask(self, requests: list[dict[str, Any]]) -> Any:
        return await ask(requests)

    async def _on_load(self, url: str, callers: int, pause: float) -> None:
        self._load = Load(url, callers, pause)

    async def _on_told(self) -> Any:
        return None if self._load is None else {"sources": self._load.sources, "failures": self._load.failures}

    async def _on_stop(self) -> Any:
        load, self._load = self._load, None
        return None if load is None else await load.stop()

    async def _on_stream(self, url: str) -> None:
        self._stream = Stream(url)
        await asyncio.wait_for(self._stream.first.wait(), 10)

    async def _on_ended(self) -> Any:
        return None if self._stream is None else await asyncio.wait_for(self._stream.task, 60)


async def orders() -> AsyncIterator[dict[str, Any]]:
    """Yield what comes in."""
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def main() -> None:
    """Serve until the input ends."""
    desk, running = Desk(), set()
    async for order in orders():
        running.add(asyncio.create_task(desk.do(order["number"], order["what"], order["words"])))


asyncio.run(main())
