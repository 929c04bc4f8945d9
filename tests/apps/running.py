"""An app under test: started as it is in production, and asked in process or over a real socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette

from apps.shared.server import Server, _bind, _config
from apps.shared.settings import ServiceSettings
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Start the app and give a client that calls it in process."""
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 4711))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


@dataclass
class Listening:
    """A server of this process, with the connections that production has."""

    port: int
    server: Server

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, sent: bytes, *then: bytes, within: float = 5.0, closes: bool = False) -> bytes:
        """Send bytes, and return all that comes back until the server hangs up (it must, if `closes`) or stays idle.

        What is sent `then` follows the first answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        found = bytearray()
        try:
            while chunk := await asyncio.wait_for(reader.read(65_536), within):
                found += chunk
                writer.write(b"".join(then))
                then = ()
        except TimeoutError:
            assert not closes, "the connection is still open"
        except ConnectionError:
            pass
        writer.close()
        return bytes(found)


@contextlib.asynccontextmanager
async def listening(app: Starlette, settings: ServiceSettings) -> AsyncIterator[Listening]:
    """Start the app behind a real port, any that is free."""
    listener = _bind("127.0.0.1", 0, "PORT")
    server = Server(_config(app, settings), app.state.health, settings.drain_seconds)
    running = asyncio.create_task(server._serve([listener]))
    await eventually(lambda: server.started or running.done(), "the server to start")
    try:
        yield Listening(listener.getsockname()[1], server)
    finally:
        server.should_exit = True
        await running


async def comes(check: Callable[[], Awaitable[bool]], what: str, within: float = 5.0) -> float:
    """Return the seconds until the check holds; fail after `within` s."""
    clock = asyncio.get_running_loop().time
    started = clock()
    while not await check():
        assert clock() - started < within, what
        await asyncio.sleep(0.005)
    return clock() - started


def refusing() -> str:
    """Return an address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def problem(response: httpx.Response, status: int) -> str:
    """Assert that this is a problem of that status, and return its detail."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (response.status_code, body["status"]) == (status, status)
    assert set(body) <= {"type", "title", "status", "detail", "request_id"}
    return str(body["detail"])
