"""Bad input and rude clients, over real sockets to the real processes: refused in words, and nothing is left behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.apps.running import problem
from tests.apps.test_shared_requests import answers
from tests.support.system import Service, System
from tests.support.traffic import comes

PLACES = 8
CROWD = 60
TO_AUTH = 40
KEPT = TO_AUTH + PLACES + 2
"""Connections that are kept for next requests: profile's to auth, the gateway's to profile, and a few to Redis."""
GIVEN = {
    "gateway_concurrency": PLACES,
    "gateway_connect_seconds": 0.2,
    "gateway_first_byte_seconds": 60,
    "profile_fallback": "fail",
    "profile_auth_timeout_seconds": 30,
    "profile_auth_connect_seconds": 5,
    "profile_auth_connections": TO_AUTH,
    "profile_breaker_minimum_calls": 1000,
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A gateway with few places, and one replica, which waits for auth and answers 503 when it cannot be asked."""
    with System(tmp_path_factory.mktemp("logs"), replicas=1, **GIVEN) as started:
        yield started


@pytest.fixture
async def client(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the gateway."""
    async with httpx.AsyncClient(base_url=system.gateway.url, timeout=20, trust_env=False) as found:
        yield found


@pytest.fixture(scope="module")
def bare(system: System) -> dict[str, int]:
    """What each has open at the start."""
    return {one.name: one.descriptors() for one in system.services}


@pytest.fixture(autouse=True)
async def _nothing_left(system: System, bare: dict[str, int]) -> AsyncIterator[None]:
    """After each test no more is open than what is kept for next requests, every place is free, and all is well."""
    yield
    await every_place_is_free(system)
    for one in system.services:
        await comes(lambda one=one: one.descriptors() <= bare[one.name] + KEPT, f"{one.name}: all to be closed")
        assert one.faults() == []


async def every_place_is_free(system: System) -> None:
    """As many requests as there are places are served at once."""
    async with (
        httpx.AsyncClient(base_url=system.gateway.url, timeout=20, trust_env=False) as client,
        fault(system, kind="slow", latency_seconds=0.2),
    ):
        found = await asyncio.gather(*(client.get("/profile/ada") for _ in range(PLACES)))
    assert [one.status_code for one in found] == [200] * PLACES


@contextlib.asynccontextmanager
async def fault(system: System, **order: Any) -> AsyncIterator[None]:
    """Let auth fail in some way meanwhile."""
    async with httpx.AsyncClient(base_url=system.auth.url, trust_env=False) as auth:
        assert (await auth.put("/faults", json={"expires_seconds": 60, **order})).status_code == 200
        try:
            yield
        finally:
            assert (await auth.delete("/faults")).status_code == 200


async def raw(service: Service, sent: bytes) -> bytes:
    """Send bytes, and return what comes back until the service hangs up, or has said nothing for a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    found = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        writer.write(sent)
        while chunk := await asyncio.wait_for(reader.read(65_536), 1):
            found += chunk
    writer.transport.abort()
    return found


async def all_raw(service: Service, sent: dict[str, bytes]) -> dict[str, bytes]:
    """Send all of these, each on a connection of its own, and no more at once than there are places."""
    places = asyncio.Semaphore(PLACES)

    async def one(what: bytes) -> bytes:
        async with places:
            return await raw(service, what)

    return dict(zip(sent, await asyncio.gather(*map(one, sent.values())), strict=True))


GET, POST = (b"%s /profile/ada HTTP/1.1\r\nHost: a\r\n" % method for method in (b"GET", b"POST"))
IDS = [
    *(
        b"%2e",
        b"%2e%2e",
        b"..",
        b"%2E%2e%2fbreakers",
        b"..%2f..%2fbreakers",
        b"ada%2f..%2fgrace",
        b"ada%5c..",
        b"ada%2fx",
    ),
    *(b"ada%00", b"%00", b"ada%0d%0aset-cookie:%20stolen=1", b"ada%0aset-cookie:%20stolen=1", b"ada%20", b"ada%09"),
    *(
        b"%c0%ae%c0%ae",
        b"%c0%af",
        b"%e0%80%af",
        b"%f0%80%80%af",
        b"%ed%a0%80",
        b"%ff%fe",
        b"%EF%BD%81",
        b"%2561da",
        b"%252e",
    ),
    *(
        b"%",
        b"%2",
        b"%zz",
        b"%u0061",
        b"a" * 65,
        b"a" * 8000,
        b"",
        b"*",
        b"ada;x=1",
        b"ada'--",
        b"{{7*7}}",
        b"<script>",
        b"a:b",
    ),
    *(b"ada/", b"//", b"./ada", b"ada/../grace", b"-ada", b"ADA", b"__proto__", b"${jndi:ldap:x}", b"\\..\\x"),
]
PATHS = [b"/profile/" + one for one in IDS] + [
    b"/",
    b"/nowhere",
    b"/profile",
    b"//profile/ada",
    b"/metrics",
    b"/users/ada",
]
PATHS += [
    b"/profiles/ada",
    b"/../profile/ada/..",
    b"/breakers/%2e%2e",
    b"/breakers/auth%2foverride",
    b"*",
    b"http://a/x",
]
HEADS = {
    "no host": b"GET /profile/ada HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: b\r\n\r\n",
    "host with a path": b"GET /profile/ada HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "many headers": GET + b"x: y\r\n" * 101 + b"\r\n",
    "many equal headers": GET + b"x-request-id: a\r\n" * 101 + b"\r\n",
    "large header": GET + b"x: " + b"y" * 17_000 + b"\r\n\r\n",
    "huge header": GET + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    "endless header": GET + b"x: " + b"y" * 200_000,
    "long path": b"GET /profile/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare CR": GET + b"x: y\rset-cookie: stolen=1\r\n\r\n",
    "bare LF": b"GET /profile/ada HTTP/1.1\nHost: a\nset-cookie: stolen=1\n\n",
    "folded": GET + b"x: y\r\n set-cookie: stolen=1\r\n\r\n",
    "null": GET + b"x: y\x00z\r\n\r\n",
    "space before colon": GET + b"x : y\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "odd version": b"GET /profile/ada HTTP/9.9\r\nHost: a\r\n\r\n",
    "odd method": b"GE(T /profile/ada HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE /profile/ada HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "PUT": b"PUT" + POST[4:] + b"content-length: 3\r\n\r\nabc",
    "negative length": POST + b"content-length: -3\r\n\r\nabc",
    "length with a sign": POST + b"content-length: +3\r\n\r\nabc",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "lengths in a list": POST + b"content-length: 3, 4\r\n\r\nabcd",
    "endless length": POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "length above the limit": POST + b"content-length: 10485761\r\n\r\nabc",
    "length and chunks": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "odd coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding with a tab": POST + b"transfer-encoding:\tchunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "odd chunks": POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "huge chunk": POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    "length too short": POST + b"content-length: 3\r\n\r\nabcGET /profile/ada HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("name", ["gateway", "profile-1", "auth"])
@pytest.mark.parametrize("what", ["paths", "heads"])
async def test_bad_input(what: str, name: str, system: System) -> None:
    """Whatever is sent is answered by problems of status 4xx, and nothing of it gets into another header or line."""
    [service] = [one for one in system.services if one.name == name]
    sent = dict(HEADS)
    if what == "paths":
        sent = {path.decode(): b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" for path in PATHS}
    if name == "auth":
        sent = {case: head.replace(b"/profile/", b"/users/") for case, head in sent.items() if case != "/users/ada"}
    found = await all_raw(service, sent)
    statuses = {case: [status for status, _ in answers(got)] for case, got in found.items()}
    assert {case: got for case, got in statuses.items() if not got or not all(400 <= one < 500 for one in got)} == {}
    assert [case for case, got in found.items() if b"stolen" in got.partition(b"\r\n\r\n")[0]] == []
    assert len(service.logged("warning")) <= 2 * len(sent)  # every line is JSON, or this had raised


async def test_good_input(system: System) -> None:
    """The same way a proper request is answered by 200, with odd but legal things in it."""
    odd = b"x-kept: \xff\r\nx-request-id: \xff\xfe\r\ncookie: a=b\r\nCOOKIE: c=d\r\n"
    for service in (system.gateway, system.profiles[0]):
        got = await raw(service, (GET + odd + b"\r\n") * 2 + GET + b"connection: close\r\n\r\n")
        assert [status for status, _ in answers(got)] == [200, 200, 200]


RUDE = {
    "half a head": GET,
    "half a body": POST + b"content-length: 1000\r\n\r\nabc",
    "half a chunk": POST + b"transfer-encoding: chunked\r\n\r\n10\r\nabc",
    "half an answer": GET + b"\r\n",
    "with another behind": GET + b"\r\n" + GET + b"\r\n",
    "events": b"GET /breakers/events HTTP/1.1\r\nHost: a\r\n\r\n",
    "events with another behind": b"GET /breakers/events HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"\r\n",
    "garbage behind": GET + b"\r\n\x00\xff\r\n\r\n",
    "endless answers": (GET + b"\r\n") * 500,
}


@pytest.mark.parametrize("rudeness", RUDE)
async def test_clients_that_leave(rudeness: str, system: System) -> None:
    """A crowd that leaves in the middle of whatever it did leaves nothing behind."""
    async with fault(system, kind="slow", latency_seconds=0.1):
        for service in (system.gateway, system.profiles[0]):
            for _ in range(CROWD):
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                writer.write(RUDE[rudeness])
                with contextlib.suppress(TimeoutError, ConnectionError):
                    await asyncio.wait_for(reader.read(20), 0.01)
                writer.transport.abort()


async def test_slow_heads(system: System, client: httpx.AsyncClient) -> None:
    """Clients that take for ever to say what they want get a 408 in the end, and keep nobody waiting meanwhile."""

    async def slowly(service: Service) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(GET)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait([answer], timeout=0.5)
        writer.transport.abort()
        return await answer

    crowd = [asyncio.create_task(slowly(one)) for one in (system.gateway, system.profiles[0]) for _ in range(CROWD)]
    while not all(one.done() for one in crowd):
        assert (await client.get("/profile/ada")).status_code == 200
        await asyncio.sleep(0.1)
    assert {status for one in crowd for status, _ in answers(one.result())} == {408}


async def test_clients_leave_while_auth_hangs(system: System, client: httpx.AsyncClient) -> None:
    """A full gateway says so, with Retry-After; who leaves while auth hangs gives the place to who comes."""
    async with fault(system, kind="hang"):
        for _ in range(2):
            waiting = [await asyncio.open_connection("127.0.0.1", system.gateway.port) for _ in range(PLACES)]
            for _, writer in waiting:
                writer.write(GET + b"\r\n")
            await comes(lambda: system.gateway.status("/profile/unknown") == 503, "the gateway to be full")
            refused = await client.get("/profile/ada")
            assert problem(refused, 503) == "too many requests are under way"
            assert refused.headers["retry-after"] == "1"
            for _, writer in waiting:
                writer.transport.abort()
            await comes(lambda: system.gateway.status("/profile/unknown") == 404, "a place to be free", 5)


async def test_503_of_profile(system: System, client: httpx.AsyncClient) -> None:
    """Profile's 503 with Retry-After reaches the client of the gateway as it reaches a client of profile."""
    async with fault(system, kind="error", status=503, retry_after_seconds=7), httpx.AsyncClient() as direct:
        name = {"x-request-id": "same"}
        through = await client.get("/profile/ada", headers=name)
        straight = await direct.get(f"{system.profiles[0].url}/profile/ada", headers=name)
    assert problem(through, 503) == "auth cannot be asked: failed"
    assert through.headers["retry-after"] == "7"
    assert through.content == straight.content
    assert sorted(head(through)) == sorted(head(straight))


def head(response: httpx.Response) -> list[tuple[str, str]]:
    """Return the headers, but for the time."""
    return [(name, value) for name, value in response.headers.multi_items() if name != "date"]
