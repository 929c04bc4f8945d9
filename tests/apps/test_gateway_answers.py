"""The gateway's client of profile: for each thing that profile can do, what the caller gets."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import respx

from apps.gateway import app as gateway_app
from apps.gateway.settings import Settings
from apps.shared.connection import BrokenOffError
from tests.apps.running import comes, problem, served

ONE, OTHER = "http://one.test:8081", "http://other.test"
Gateways = Callable[..., Awaitable[httpx.AsyncClient]]
BROKEN = httpx.RemoteProtocolError("peer closed connection without sending complete message body")


@pytest.fixture
def gateway(stack: AsyncExitStack) -> Gateways:
    """Start a gateway to two addresses; takes settings."""

    async def start(**settings: Any) -> httpx.AsyncClient:
        given = {"routes": {"/profile": (ONE, OTHER)}, **settings}
        return await stack.enter_async_context(served(gateway_app.create_app(Settings(**given))))

    return start


class Chunks(httpx.AsyncByteStream):
    """A body in pieces, that may break."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks, self._error = chunks, error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._error:
            raise self._error


HTML, JSON = {"content-type": "text/html"}, {"content-type": "application/json"}
SAID: dict[str, httpx.Response] = {
    "200": httpx.Response(200, json={"user_id": "ada"}),
    "204": httpx.Response(204),
    "302": httpx.Response(302, headers={"location": "http://elsewhere.test/"}),
    "401": httpx.Response(401, headers={"www-authenticate": "Bearer"}, content=b"no"),
    "403": httpx.Response(403, content=b"no"),
    "404": httpx.Response(404, content=b"no"),
    "429": httpx.Response(429, headers={"retry-after": "7"}),
    "500": httpx.Response(500, content=b"oh"),
    "503": httpx.Response(503, headers={"retry-after": "7", "content-type": "application/problem+json"}, content=b"{}"),
    "malformed": httpx.Response(200, headers=JSON, content=b'{"user_id": "ad'),
    "wrong type": httpx.Response(200, headers=HTML, content=b"<p>"),
    "10 MB": httpx.Response(200, headers=JSON, content=b"x" * 10_000_000),
    "pieces": httpx.Response(200, headers=JSON, stream=Chunks(*[b"x" * 1000] * 50)),
}


@pytest.mark.parametrize("name", SAID)
async def test_answer_is_passed_on(name: str, gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Whatever profile answers, its 503 with Retry-After included, reaches the caller unchanged."""
    said = SAID[name]
    upstream.get(path="/profile/ada").mock(return_value=said)
    answer = await (await gateway()).get("/profile/ada")
    assert (answer.status_code, answer.content) == (said.status_code, said.content if said.is_closed else b"x" * 50_000)
    added = {"x-request-id"}
    assert {name: value for name, value in answer.headers.items() if name not in added} == dict(said.headers)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")], ids=["refused", "slow"]
)
async def test_nobody_is_there(
    error: Exception, gateway: Gateways, upstream: respx.MockRouter, logged: pytest.LogCaptureFixture
) -> None:
    """When no address lets us connect, each was tried once, and the caller gets a 502."""
    upstream.route().mock(side_effect=error)
    assert problem(await (await gateway()).get("/profile/ada"), 502) == "/profile cannot be reached"
    assert sorted(call.request.url.host for call in upstream.calls) == ["one.test", "other.test"]
    [record] = [record for record in logged.records if record.name == "apps.proxy"]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)


async def test_no_answer_in_time(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """When profile takes the request and does not answer in time, the caller gets a 504, and it is not sent again."""
    upstream.route().mock(side_effect=httpx.ReadTimeout("slow"))
    assert problem(await (await gateway()).get("/profile/ada"), 504) == "/profile did not answer in time"
    assert len(upstream.calls) == 1


async def test_who_does_not_answer_in_time_is_not_asked_first(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """An address that took a request and did not answer costs the next callers no wait: another one is asked."""
    hung: list[str] = []

    async def first_hangs(request: httpx.Request) -> httpx.Response:
        if hung in ([], [request.url.host]):
            hung[:] = [request.url.host]
            await asyncio.sleep(60)
        return httpx.Response(200)

    upstream.route().mock(side_effect=first_hangs)
    client = await gateway(first_byte_seconds=0.1, skip_seconds=60)
    problem(await client.get("/profile/ada"), 504)
    assert [(await client.get("/profile/ada")).status_code for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.WriteTimeout])
async def test_who_stands_still_is_not_asked_first(
    error: type[httpx.TimeoutException], gateway: Gateways, upstream: respx.MockRouter
) -> None:
    """An address that says nothing for `idle_seconds`, or takes nothing of a body, is left alone for a while."""
    upstream.route().mock(side_effect=[error("slow"), *[httpx.Response(200)] * 4])
    client = await gateway(skip_seconds=60)
    problem(await client.get("/profile/ada"), 504)
    assert [(await client.get("/profile/ada")).status_code for _ in range(4)] == [200] * 4
    first, *others = [call.request.url.host for call in upstream.calls]
    assert first not in others


BEFORE = [httpx.ReadError("reset"), httpx.WriteError("reset"), httpx.RemoteProtocolError("disconnected")]


@pytest.mark.parametrize("error", BEFORE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_broken_connection_is_tried_elsewhere(
    method: str, error: Exception, gateway: Gateways, upstream: respx.MockRouter
) -> None:
    """A request that may be repeated and whose connection broke before the answer is sent once more, elsewhere."""
    upstream.route().mock(side_effect=[error, httpx.Response(200)])
    assert (await (await gateway()).request(method, "/profile/ada")).status_code == 200
    assert len({call.request.url.host for call in upstream.calls}) == 2


@pytest.mark.parametrize(
    ("method", "content", "calls"),
    [("GET", None, 2), ("POST", None, 1), ("PATCH", b"x", 1), ("PUT", b"x", 1)],
    ids=["twice", "POST", "PATCH", "PUT with a body"],
)
async def test_broken_connection_is_a_502(
    method: str, content: bytes | None, calls: int, gateway: Gateways, upstream: respx.MockRouter
) -> None:
    """Once is all; and what may have been done, or whose body is gone, is not sent again."""

    async def broken(request: httpx.Request) -> httpx.Response:
        await request.aread()
        raise httpx.ReadError("reset")

    upstream.route().mock(side_effect=broken)
    problem(await (await gateway()).request(method, "/profile/ada", content=content), 502)
    assert len(upstream.calls) == calls


async def test_one_address_is_tried_again(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """With one address, which may be many behind a name, elsewhere is there."""
    upstream.route().mock(side_effect=[httpx.ReadError("reset"), httpx.Response(200)])
    client = await gateway(routes={"/profile": (ONE,)})
    assert (await client.get("/profile/ada")).status_code == 200
    assert [call.request.url.host for call in upstream.calls] == ["one.test", "one.test"]


async def test_broken_body_breaks_off(
    gateway: Gateways, upstream: respx.MockRouter, logged: pytest.LogCaptureFixture
) -> None:
    """An answer whose body breaks ends broken, so that nobody takes it for whole; the place is free again."""
    upstream.route().mock(
        side_effect=lambda _: httpx.Response(200, headers={"content-length": "9"}, stream=Chunks(b"half", error=BROKEN))
    )
    client = await gateway(concurrency=1)
    for _ in range(2):
        with pytest.raises(BrokenOffError):
            await client.get("/profile/ada")
    assert [record for record in logged.records if record.levelno >= logging.ERROR or record.exc_info] == []


async def test_improper_status(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """A status that HTTP does not know is a 502."""
    upstream.route().mock(return_value=httpx.Response(799))
    assert problem(await (await gateway()).get("/profile/ada"), 502) == "/profile gave no proper answer"


async def test_turns(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Addresses are taken in turn."""
    upstream.route().respond(200)
    client = await gateway()
    for _ in range(6):
        await client.get("/profile/ada")
    hosts = [call.request.url.host for call in upstream.calls]
    assert hosts[:2] * 3 == hosts
    assert len(set(hosts)) == 2


async def test_refusing_address_is_skipped(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """One that refuses is tried once, whatever the method, then left alone for a while; after that it gets its turn."""
    upstream.route(host="one.test").mock(side_effect=httpx.ConnectError("refused"))
    upstream.route(host="other.test").respond(200)
    client = await gateway(skip_seconds=0.2)
    for _ in range(10):
        assert (await client.post("/profile/ada")).status_code == 200
    hosts = [call.request.url.host for call in upstream.calls]
    assert hosts.count("one.test") == 1

    async def tried_again() -> bool:
        assert (await client.get("/profile/ada")).status_code == 200
        return [call.request.url.host for call in upstream.calls].count("one.test") == 2

    await comes(tried_again, "its turn")


async def test_full(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """So many requests are under way at once; one more gets 503 with Retry-After, and health is still answered."""
    go, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def slowly(_: httpx.Request) -> httpx.Response:
        arrived.release()
        await go.wait()
        return httpx.Response(200)

    upstream.route().mock(side_effect=slowly)
    client = await gateway(concurrency=3)
    under_way = [asyncio.create_task(client.get("/profile/ada")) for _ in range(3)]
    for _ in under_way:
        await arrived.acquire()
    refused = await client.get("/profile/ada")
    assert problem(refused, 503) == "too many requests are under way"
    assert refused.headers["retry-after"] == "1"
    assert (await client.get("/readyz")).status_code == 200
    go.set()
    assert [(await each).status_code for each in under_way] == [200, 200, 200]
    assert (await client.get("/profile/ada")).status_code == 200


async def test_places_come_back(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Whatever becomes of a request, its place is free again."""
    client = await gateway(concurrency=1, body_bytes=10)
    upstream.route().mock(side_effect=[httpx.ConnectError("a"), httpx.ConnectError("b"), httpx.ReadTimeout("c")])
    problem(await client.get("/profile/ada"), 502)
    problem(await client.get("/profile/ada"), 504)
    upstream.route().mock(return_value=httpx.Response(200, content=gzip.compress(b"x")))
    for path, status in (("/elsewhere", 404), ("/profile/%2e", 400), ("/profile/ada", 200)):
        assert (await client.get(path)).status_code == status
    assert (await client.post("/profile/ada", content=b"x" * 11)).status_code == 413
    assert (await client.get("/profile/ada")).status_code == 200
