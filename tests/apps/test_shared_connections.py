"""`Connections`: beneath an HTTP client, kept and counted, and none lost when a request is cancelled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from apps.shared.connections import Connections
from tests.support.waiting import eventually

PLENTY = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}


class Upstream:
    """A server that counts its connections and answers when it may."""

    def __init__(self) -> None:
        self.made = self.open = self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.body = b"x" * 10
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on any port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked += 1
                await self.answers.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(self.body) + self.body)
        self.open -= 1
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Who is asked."""
    found = Upstream()
    async with found.serving():
        yield found


async def ask(connections: Connections, upstream: Upstream, pool: float = 5.0) -> bytes:
    """Ask, and return the body."""
    extensions = {"timeout": {**PLENTY, "pool": pool}}
    request = httpx.Request("GET", f"http://127.0.0.1:{upstream.port}/", extensions=extensions)
    response = await connections.handle_async_request(request)
    try:
        return b"".join([chunk async for chunk in response.aiter_raw()])
    finally:
        await response.aclose()


async def test_connections_are_kept(upstream: Upstream) -> None:
    """One request after another uses one connection; as many at once as there are use one each, and no more later."""
    connections = Connections(8, keep_alive=60)
    assert [await ask(connections, upstream) for _ in range(10)] == [upstream.body] * 10
    assert upstream.made == 1
    for _ in range(3):
        await asyncio.gather(*(ask(connections, upstream) for _ in range(8)))
    assert upstream.made == 8
    await connections.aclose()


async def test_one_more_waits_and_then_fails(upstream: Upstream) -> None:
    """With all connections in use a request waits for one, as long as its pool timeout says."""
    connections = Connections(2, keep_alive=60)
    upstream.answers.clear()
    busy = [asyncio.create_task(ask(connections, upstream)) for _ in range(2)]
    await eventually(lambda: upstream.asked == 2, "both to arrive")
    with pytest.raises(httpx.PoolTimeout, match=r"no connection was free within 0\.01 s"):
        await ask(connections, upstream, pool=0.01)
    waiting = asyncio.create_task(ask(connections, upstream))
    await asyncio.sleep(0)
    upstream.answers.set()
    assert await asyncio.gather(*busy, waiting) == [upstream.body] * 3
    assert upstream.made == 2
    await connections.aclose()


async def test_cancelled_requests_lose_no_place(upstream: Upstream) -> None:
    """However late a request is cancelled, before it connects or while it waits for its answer, its place is free."""
    connections = Connections(4, keep_alive=60)
    upstream.answers.clear()
    for turns in range(40):
        tasks = [asyncio.create_task(ask(connections, upstream, pool=1.0)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    upstream.answers.set()
    assert await asyncio.gather(*(ask(connections, upstream, pool=1.0) for _ in range(4))) == [upstream.body] * 4
    await connections.aclose()
    await eventually(lambda: not upstream.open, "all connections to be closed")


async def test_a_failure_loses_no_place() -> None:
    """A connection that was refused, as often as you like, costs no place."""
    connections = Connections(1, keep_alive=60)
    for _ in range(5):
        with pytest.raises(httpx.ConnectError):
            await ask(connections, Upstream(), pool=0.1)
    await connections.aclose()


async def test_idle_connections_are_closed(upstream: Upstream) -> None:
    """A connection that was idle for longer than it is kept is closed when others are used."""
    connections = Connections(4, keep_alive=0.05)
    await asyncio.gather(*(ask(connections, upstream) for _ in range(4)))
    await asyncio.sleep(0.06)
    async with asyncio.timeout(5):
        while upstream.open > 1:
            await ask(connections, upstream)
    await connections.aclose()


async def test_connections_age(upstream: Upstream) -> None:
    """One that is always busy is replaced when it is old, by none that is as old, and no place is lost with it."""
    connections = Connections(1, age=0.2)
    until = asyncio.get_running_loop().time() + 0.5
    while asyncio.get_running_loop().time() < until:
        assert await ask(connections, upstream, pool=0.1) == upstream.body
    assert 3 <= upstream.made <= 6
    await eventually(lambda: upstream.open == 1, "the old ones to be closed")
    await connections.aclose()


async def test_each_origin_has_its_own(upstream: Upstream) -> None:
    """A connection leads to where it was made for, and those to one origin are kept while others are asked."""
    other = Upstream()
    other.body = b"other"
    connections = Connections(1)
    async with other.serving():
        for _ in range(3):
            assert await ask(connections, upstream) == upstream.body
            assert await ask(connections, other) == b"other"
        assert (upstream.made, other.made) == (1, 1)
        await connections.aclose()


async def test_body_closed_early(upstream: Upstream) -> None:
    """A body that nobody reads to its end costs no place either, and its connection is not used again."""
    upstream.body = b"x" * 1_000_000
    connections = Connections(1, keep_alive=60)
    for _ in range(3):
        request = httpx.Request("GET", f"http://127.0.0.1:{upstream.port}/", extensions={"timeout": PLENTY})
        await (await connections.handle_async_request(request)).aclose()
    assert len(await ask(connections, upstream, pool=0.1)) == 1_000_000
    assert upstream.made == 4
    await connections.aclose()
