"""The connection: clients that send too much, too early, or never take their answer, and leave nothing behind."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from apps.shared import connection
from tests.apps.running import Listening, listening
from tests.apps.test_shared_requests import GET, TRACE, Plain, answers, no_tracebacks
from tests.support.waiting import eventually

CHUNKED = b"POST" + GET[3:] + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS, HOLD = (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in (b"endless", b"hold"))


@pytest.fixture
def plain() -> Plain:
    """A service with nothing but what all have."""
    return Plain()


@pytest.fixture
async def port(plain: Plain) -> AsyncIterator[Listening]:
    """It, behind a port."""
    async with listening(plain.app, plain.settings) as found:
        yield found


@contextlib.asynccontextmanager
async def connected(port: Listening) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's end of a connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes until the server hangs up, which it must."""
    found = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while chunk := await reader.read(65_536):
                found += chunk
    return found


async def test_waiting_requests_are_answered_in_turn(port: Listening) -> None:
    """A few requests may be sent at once; they are answered in their order."""
    sent = [b"POST" + GET[3:] + b"content-length: %d\r\n\r\n%s" % (size, b"x" * size) for size in range(10)]
    raw = await port.raw(b"".join(sent), within=0.3)
    assert [(status, body["length"]) for status, body in answers(raw)] == [(200, size) for size in range(10)]


async def test_too_many_waiting_requests(plain: Plain, port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """Who sends requests without end and without waiting for answers is hung up on, and what ran for them ends."""
    async with connected(port) as (reader, writer):
        writer.write(HOLD + (GET + b"\r\n") * 100)
        await hung_up(reader)
    plain.go.set()
    await eventually(lambda: not port.server.server_state.tasks, "the request to end")
    assert "POST" not in logged.text
    assert logged.text.count("/echo") == 0
    no_tracebacks(logged)


async def test_client_leaves_with_a_request_waiting(
    plain: Plain, port: Listening, logged: pytest.LogCaptureFixture
) -> None:
    """A client that hangs up ends the answer it was getting, also when it had sent another request behind it."""
    async with connected(port) as (reader, writer):
        writer.write(ENDLESS + GET + b"\r\n")
        await plain.began.wait()
        await reader.readuntil(b"xxx")
    await eventually(lambda: not port.server.server_state.tasks, "the answer to end")
    no_tracebacks(logged)


@pytest.mark.parametrize("rest", [b"GARBAGE\r\n\r\n", b"GET /" + b"a" * 100_000, GET], ids=["none", "huge", "slow"])
async def test_no_refusal_within_an_answer(
    rest: bytes, plain: Plain, port: Listening, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    """What is no request, behind one that is being answered, ends the connection without a word in that answer."""
    monkeypatch.setattr(connection, "SLOWEST_HEAD", 0.05)
    async with connected(port) as (reader, writer):
        writer.write(ENDLESS)
        await plain.began.wait()
        await reader.readuntil(b"xxx")
        writer.write(rest)
        assert b"HTTP/1.1" not in await hung_up(reader)
    await eventually(lambda: not port.server.server_state.tasks, "the answer to end")
    no_tracebacks(logged)


async def test_trailers_are_dropped(port: Listening) -> None:
    """What stands behind a body is no part of the head, where it would pass by those who check heads."""
    trailers = b"x-request-id: theirs\r\ntraceparent: 00-%s-b7ad6b7169203331-01\r\n\r\n" % TRACE.encode()
    raw = await port.raw(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers, within=0.3)
    [(status, body)] = answers(raw)
    assert (status, body["length"]) == (200, 3)
    assert b"theirs" not in raw
    assert body["trace"] != TRACE


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"bbbbbbbb"], ids=["many", "long"])
async def test_endless_trailers(trailer: bytes, port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """Trailers without end are refused."""
    async with connected(port) as (reader, writer):
        writer.write(CHUNKED + b"3\r\nabc\r\n0\r\nx: ")
        for _ in range(10):
            writer.write(trailer * 10_000)
        assert [status for status, _ in answers(await hung_up(reader))] == [431]
    no_tracebacks(logged)


async def test_refused_body_without_end(logged: pytest.LogCaptureFixture) -> None:
    """The rest of a refused body is waited for no longer than a next request, however steadily it comes."""
    plain = Plain()
    async with listening(plain.app, plain.settings) as port:
        port.server.config.timeout_keep_alive = 1
        async with connected(port) as (reader, writer):
            writer.write(b"POST" + GET[3:] + b"content-length: 1000000\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
            leaving = asyncio.create_task(hung_up(reader))
            while not leaving.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            await leaving
    no_tracebacks(logged)


async def test_steady_client_is_kept(port: Listening) -> None:
    """The wait for a next request begins anew with each answer."""
    port.server.config.timeout_keep_alive = 1
    clock = asyncio.get_running_loop().time
    async with connected(port) as (reader, writer):
        started = clock()
        while clock() < started + 1.5:
            writer.write(GET + b"\r\n")
            await reader.readuntil(b"}")
            await asyncio.sleep(0.1)


async def test_slow_client_is_not_waited_for(
    plain: Plain, port: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is to end ends, also when its client does not take what was written."""
    monkeypatch.setattr(connection, "SLOWEST_END", 0.05)
    caplog.set_level(logging.INFO)
    async with connected(port) as (reader, writer):
        writer.transport.pause_reading()
        writer.write(ENDLESS)
        await plain.began.wait()
        [found] = port.server.server_state.connections
        assert isinstance(found, connection.Connection)
        found.transport.write(b"x" * 50_000_000)
        found.abort()
        await eventually(lambda: not port.server.server_state.connections, "the connection to end")
        assert not reader.at_eof()
    await eventually(lambda: not port.server.server_state.tasks, "the answer to end")
    no_tracebacks(caplog)
