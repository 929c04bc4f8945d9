"""The gateway over real sockets: bodies that flow both ways, callers that leave, profile that stalls, and drain."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from apps.gateway import app as gateway_app
from apps.gateway.settings import Settings
from apps.shared import connection
from tests.apps.running import Listening, comes, listening, problem, refusing
from tests.support.waiting import eventually

Gateways = Callable[..., Awaitable[Listening]]


class Upstream:
    """A server that does byte for byte what it is told, and notes what happens to it."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.got = bytearray()
        self.left = asyncio.Event()
        self.go = asyncio.Event()
        self.answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = self.ok
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def ok(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer shortly."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve requests until somebody leaves."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self.answer(reader, writer)
                if writer.is_closing():
                    break
        self.left.set()
        writer.close()


@pytest.fixture
async def profile(stack: AsyncExitStack) -> AsyncIterator[Upstream]:
    """An upstream in place of profile."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    await stack.aclose()  # the gateway first, which holds connections
    upstream.go.set()
    server.close()


@pytest.fixture
def gateway(stack: AsyncExitStack, profile: Upstream) -> Gateways:
    """Start a gateway in front of it; takes settings."""

    async def start(**given: Any) -> Listening:
        settings = Settings(**{"routes": {"/": (profile.url,)}, "drain_seconds": 0, **given})
        return await stack.enter_async_context(listening(gateway_app.create_app(settings), settings))

    return start


@pytest.fixture
async def client(stack: AsyncExitStack) -> httpx.AsyncClient:
    """A caller."""
    return await stack.enter_async_context(httpx.AsyncClient(timeout=5))


def clean(logged: pytest.LogCaptureFixture) -> None:
    """Assert that nothing was logged as our mistake."""
    assert [record for record in logged.records if record.exc_info or record.levelno >= logging.ERROR] == []


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/plain\r\n\r\n"


async def test_answer_streams(profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """A piece of an answer reaches the caller while the next one is not yet there."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfirst\r\n")
        await profile.go.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")

    profile.answer = answer
    async with client.stream("GET", (await gateway()).url) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"first"
        profile.go.set()
        assert await anext(pieces) == b"last"


async def test_request_streams(profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """A piece of a request's body reaches profile while the caller still sends."""
    seen = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"first\r\n") == b"5\r\nfirst\r\n"
        seen.set()
        await reader.readuntil(b"0\r\n\r\n")
        await profile.ok(reader, writer)

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await seen.wait()
        yield b"last"

    profile.answer = answer
    assert (await client.post((await gateway()).url, content=body())).text == "ok"


async def test_large_bodies_are_not_kept(profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """A caller that does not read holds profile up: nothing piles up in between."""
    written = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _i in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    profile.answer = answer
    async with client.stream("GET", (await gateway()).url) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        last = -1
        while written != last:
            last = written
            await asyncio.sleep(0.05)
        assert written < 25_000_000  # what sockets hold
        async for _ in pieces:
            pass
    await eventually(lambda: written == 50_000_000, "the rest")


async def test_caller_leaves_while_answered(
    profile: Upstream, gateway: Gateways, logged: pytest.LogCaptureFixture
) -> None:
    """A caller that leaves in the middle ends the request at profile, and frees its place."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfirst\r\n")
        await writer.drain()

    profile.answer = answer
    door = await gateway(concurrency=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"first")
    writer.close()
    await asyncio.wait_for(profile.left.wait(), 2)
    profile.answer = profile.ok
    async with httpx.AsyncClient() as client:
        await eventually_ok(client, door)
    clean(logged)


async def eventually_ok(client: httpx.AsyncClient, door: Listening) -> None:
    """Wait until a request is answered by 200."""

    async def ok() -> bool:
        return (await client.get(door.url)).status_code == 200

    await comes(ok, "a place")


async def test_caller_leaves_while_sending(
    profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, logged: pytest.LogCaptureFixture
) -> None:
    """A caller that promises more than it sends, and leaves, ends the request at profile."""

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)

    profile.answer = answer
    door = await gateway(concurrency=1)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 100\r\n\r\nabc")
    await eventually(lambda: len(profile.heads) == 1, "the request to arrive")
    writer.close()
    await asyncio.wait_for(profile.left.wait(), 2)
    profile.answer = profile.ok
    await eventually_ok(client, door)
    clean(logged)


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Answer nothing, until nobody waits any more."""
    await reader.read()
    raise ConnectionError


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["alone", "with another behind"])
async def test_caller_leaves_unanswered(
    behind: bytes, profile: Upstream, gateway: Gateways, logged: pytest.LogCaptureFixture
) -> None:
    """A caller that leaves before profile answers ends the request at profile, and frees its place."""
    profile.answer = hang
    door = await gateway(concurrency=1, connect_seconds=60, first_byte_seconds=60)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\nabc" + behind)
    await eventually(lambda: len(profile.heads) == 1, "the request to arrive")
    writer.transport.abort()
    await asyncio.wait_for(profile.left.wait(), 2)
    await eventually(lambda: not door.server.server_state.tasks, "the request to end")
    profile.answer = profile.ok
    async with httpx.AsyncClient() as client:
        await eventually_ok(client, door)
    assert "POST / 499" in logged.text
    clean(logged)


async def test_caller_that_does_not_read(
    profile: Upstream, gateway: Gateways, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    """A caller that stops reading is hung up on, and nothing is kept for it."""
    monkeypatch.setattr(connection, "SLOWEST_END", 0.05)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n" + b"x" * 50_000_000)
        await writer.drain()

    profile.answer = answer
    door = await gateway(idle_seconds=0.2)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.transport.pause_reading()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await eventually(lambda: len(profile.heads) == 1, "the request to arrive")
    await asyncio.wait_for(profile.left.wait(), 5)
    await eventually(lambda: not door.server.server_state.connections, "the connection to end")
    writer.transport.abort()
    clean(logged)


async def test_leaving_callers_cost_no_connections(gateway: Gateways, client: httpx.AsyncClient) -> None:
    """However many callers hang up while their requests are being connected, the next one is served."""
    door = await gateway(concurrency=10, streams=1)
    for _ in range(60):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()
        writer.transport.abort()
    await eventually_ok(client, door)
    await eventually(lambda: not door.server.server_state.tasks, "the requests to end")


async def test_profile_stalls(profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """Without a first byte by the deadline the caller gets a 504, and profile sees that nobody waits."""

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)
        raise ConnectionError

    profile.answer = answer
    door = await gateway(first_byte_seconds=0.1)
    problem(await client.get(door.url), 504)
    await asyncio.wait_for(profile.left.wait(), 2)


async def test_caller_stalls(profile: Upstream, gateway: Gateways) -> None:
    """A body that does not come by the deadline is a 408, and its connection ends."""

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)

    profile.answer = answer
    door = await gateway(first_byte_seconds=0.1)
    raw = await door.raw(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 100\r\n\r\nabc", within=2)
    assert raw.startswith(b"HTTP/1.1 408 ")
    await asyncio.wait_for(profile.left.wait(), 2)


@pytest.mark.parametrize(("sent", "seconds"), [(b"abc", 60), (b"a", 0.1)], ids=["leaves", "stalls"])
async def test_who_asks_takes_no_address_out_of_turn(
    sent: bytes, seconds: float, profile: Upstream, gateway: Gateways, client: httpx.AsyncClient
) -> None:
    """It is not held against an address that a caller has left it, or sent no body in time."""
    profile.answer = hang
    addresses = (profile.url, f"http://localhost:{profile.port}")
    door = await gateway(routes={"/": addresses}, first_byte_seconds=seconds, skip_seconds=60)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\n" + sent)
    await eventually(lambda: len(profile.heads) == 1, "the request to arrive")
    if sent == b"abc":
        writer.transport.abort()
    await asyncio.wait_for(profile.left.wait(), 5)
    writer.transport.abort()
    profile.answer = profile.ok
    for _ in range(4):
        assert (await client.get(door.url)).text == "ok"
    assert sum(b"host: localhost" in head for head in profile.heads[1:]) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"content-length: 10\r\n\r\nshort",
        b"transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nshort\r\nXYZ\r\n",
    ],
    ids=["length", "chunks", "garbage"],
)
async def test_profile_breaks_off(
    body: bytes, profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, logged: pytest.LogCaptureFixture
) -> None:
    """An answer that profile breaks off breaks off at the caller too."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + body)
        writer.close()

    profile.answer = answer
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get((await gateway()).url)
    clean(logged)


async def test_profile_breaks_off_with_a_request_waiting(
    profile: Upstream, gateway: Gateways, logged: pytest.LogCaptureFixture
) -> None:
    """The same when the caller has sent another request behind."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort")
        writer.close()

    profile.answer = answer
    raw = await (await gateway()).raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2, closes=True)
    assert raw.endswith(b"short")
    clean(logged)


LENGTHS = {
    "304": (b"304 Not Modified\r\ncontent-length: 9\r\n\r\n", b""),
    "204": (b"204 No Content\r\ncontent-length: 0\r\n\r\n", b""),
    "chunks": (b"200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "till the end": (b"200 OK\r\n\r\nhello", b"hello"),
}


@pytest.mark.parametrize("name", LENGTHS)
async def test_lengths_that_are_none(
    name: str, profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, logged: pytest.LogCaptureFixture
) -> None:
    """A length that says nothing of what follows is not passed on: where no body may come, and beside chunks."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + LENGTHS[name][0])
        writer.close()

    profile.answer = answer
    found = await client.get((await gateway()).url)
    assert (found.status_code, found.content) == (int(LENGTHS[name][0][:3]), LENGTHS[name][1])
    assert "content-length" not in found.headers
    clean(logged)


async def test_answer_that_stands_still(
    profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, logged: pytest.LogCaptureFixture
) -> None:
    """An answer that stands still for longer than the setting is broken off."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfirst\r\n")
        await profile.go.wait()

    profile.answer = answer
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get((await gateway(idle_seconds=0.1)).url)
    assert "stood still for 0.1 s" in logged.text
    clean(logged)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"HTTP/1.1 99 x\r\n\r\n"]
)
async def test_no_http(answer: bytes, profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """What is no HTTP answer is a 502."""

    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    profile.answer = garbage
    problem(await client.get((await gateway()).url), 502)


async def test_refused_body_goes_elsewhere(profile: Upstream, gateway: Gateways, client: httpx.AsyncClient) -> None:
    """A request with a body, whose first address refuses, reaches the next with its whole body."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        profile.got += await reader.readexactly(3)
        await profile.ok(reader, writer)

    profile.answer = answer
    door = await gateway(routes={"/": (refusing(), profile.url, refusing())})
    for _ in range(4):
        assert (await client.post(door.url, content=b"abc")).text == "ok"
    assert bytes(profile.got) == b"abc" * 4


STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n"


async def one_event(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin an event stream that says one thing and goes on until the other side leaves."""
    writer.write(STREAM + b"9\r\ndata: 1\n\n\r\n")
    await reader.read(1)
    raise ConnectionError


async def test_event_streams_have_places_of_their_own(
    profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, stack: AsyncExitStack
) -> None:
    """Event streams take no place of other requests, and are limited for themselves."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/events" not in profile.heads[-1]:
            return await profile.ok(reader, writer)
        return await one_event(reader, writer)

    profile.answer = answer
    door = await gateway(concurrency=1, streams=2)
    opened = []
    for _ in range(2):
        response = await stack.enter_async_context(client.stream("GET", f"{door.url}/events"))
        opened.append(response.aiter_bytes())
        assert await anext(opened[-1]) == b"data: 1\n\n"
    assert (await client.get(door.url)).text == "ok"
    refused = await client.get(f"{door.url}/events")
    assert problem(refused, 503) == "no further event stream is passed on"
    assert refused.headers["retry-after"] == "5"


async def test_an_event_stream_that_comes_at_drain_may_come_again(
    profile: Upstream, gateway: Gateways, client: httpx.AsyncClient
) -> None:
    """It is ended in order and not refused: after an error an EventSource does not come again."""
    profile.answer = one_event
    door = await gateway(drain_seconds=5)

    async def draining() -> bool:
        return (await client.get(f"{door.url}/readyz")).status_code == 503

    door.server.handle_exit(15, None)
    await comes(draining, "the drain")
    response = await client.get(f"{door.url}/events")
    assert (response.status_code, response.text) == (200, "retry: 1000\n\n")
    assert response.headers["content-type"] == "text/event-stream"
    door.server.handle_exit(15, None)  # ends the wait


async def test_event_streams_end_at_drain(
    profile: Upstream, gateway: Gateways, client: httpx.AsyncClient, logged: pytest.LogCaptureFixture
) -> None:
    """When the gateway drains, its event streams end in order, and profile sees them end."""
    profile.answer = one_event
    door = await gateway()
    async with client.stream("GET", f"{door.url}/events") as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        door.server.handle_exit(15, None)
        assert [piece async for piece in pieces] == []
    await asyncio.wait_for(profile.left.wait(), 2)
    clean(logged)
