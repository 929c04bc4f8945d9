"""`commontrip.httpx`: what counts as what, against a server that answers in raw bytes."""

import asyncio
import contextlib
import gc
import re
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from commontrip import (
    Breaker,
    Breakers,
    CircuitOpenError,
    Classify,
    ConsecutiveFailures,
    Cooldown,
    MemoryStore,
    Outcome,
    Policy,
    State,
    SuccessRatio,
)
from commontrip.httpx import BreakerTransport, name_of, retry_after
from commontrip.redis import RedisStore
from commontrip.testing import FakeClock
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, eventually

TOLERANT = Policy(trip=ConsecutiveFailures(1000))
STRICT = Policy(
    trip=ConsecutiveFailures(3), recover=SuccessRatio(1, probes=1), cooldown=Cooldown(1, jitter=0, maximum=300)
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
IMPATIENT = httpx.Timeout(5, read=0.05)
FAILED, PASSED, IGNORED, LEFT = (
    {outcome: 1} for outcome in (Outcome.FAILURE, Outcome.SUCCESS, Outcome.IGNORED, Outcome.CANCELLED)
)

Script = Callable[["RawServer", asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """A dependency on loopback that answers each request as its script says, and counts what arrived."""

    def __init__(self) -> None:
        self.script: Script = says(OK, b"fine")
        self.requests = 0
        self.connections = 0
        self.go = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._server
        self._server.close()
        self.drop_all()
        self.go.set()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self.script(self, writer)
        self._writers.discard(writer)
        writer.close()

    def drop_all(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()


def says(*parts: bytes) -> Script:
    """Answer so, and keep the connection."""

    async def script(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))

    return script


def hangs_up(*parts: bytes) -> Script:
    """Answer so, and close the connection."""

    async def script(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        writer.close()

    return script


def resets(*parts: bytes) -> Script:
    """Answer so, and reset the connection."""

    async def script(_: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return script


def waits(*parts: bytes, then: bytes = b"") -> Script:
    """Answer so, and say the rest when the test lets it go."""

    async def script(server: RawServer, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await server.go.wait()
        writer.write(then)

    return script


IN_THE_BODY = waits(OK, b"fi")


@pytest.fixture
async def dependency() -> AsyncIterator[RawServer]:
    """The server that is guarded."""
    async with RawServer() as started:
        yield started


@pytest.fixture
async def breakers() -> AsyncIterator[Breakers]:
    """Breakers on a store in memory."""
    async with Breakers(MemoryStore(), store_budget=PATIENCE) as started:
        yield started


@pytest.fixture
def auth(breakers: Breakers) -> Breaker:
    """A breaker that never trips here, so that what it counted can be looked at."""
    return breakers.get("auth", TOLERANT)


@pytest.fixture
async def client(auth: Breaker) -> AsyncIterator[httpx.AsyncClient]:
    """A client over the real transport, guarded by `auth`."""
    async with httpx.AsyncClient(transport=BreakerTransport(auth)) as opened:
        yield opened


def counted(breaker: Breaker) -> dict[Outcome, int]:
    """Return what the breaker has counted."""
    return {outcome: count for outcome, count in breaker.snapshot.calls.items() if count}


def answering(breaker: Breaker | Breakers, /, policy: Policy | None = None, **mock: object) -> httpx.AsyncClient:
    """Return a guarded client whose every request is answered by respx."""
    router = respx.MockRouter(assert_all_called=False)
    router.route().mock(**mock)  # type: ignore[arg-type]
    return httpx.AsyncClient(
        transport=BreakerTransport(breaker, httpx.MockTransport(router.async_handler), policy=policy)
    )


# -- a body that breaks or stalls


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(hangs_up(OK, b"fi"), id="shorter than announced"),
        pytest.param(hangs_up(CHUNKED, b"2\r\nfi\r\n"), id="no last chunk"),
        pytest.param(resets(OK, b"fi"), id="reset"),
        pytest.param(waits(OK, b"fi"), id="stalls"),
    ],
)
async def test_t28_a_body_that_breaks_or_stalls_counts(
    dependency: RawServer, redis_url: str, prefix: str, script: Script
) -> None:
    """T28: a good status whose body breaks or stalls is a failure: the third opens, and no fourth request arrives."""
    dependency.script = script
    async with Breakers(RedisStore.from_url(redis_url, prefix=prefix), store_budget=PATIENCE) as breakers:
        breaker = breakers.get("auth", STRICT)
        async with httpx.AsyncClient(transport=BreakerTransport(breaker), timeout=IMPATIENT) as client:
            for _ in range(3):
                with pytest.raises((httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError)):
                    await client.get(dependency.url)
            for _ in range(20):
                with pytest.raises(CircuitOpenError):
                    await client.get(dependency.url)
        assert counted(breaker) == {Outcome.FAILURE: 3, Outcome.REJECTED: 20}
    assert dependency.requests == 3


async def test_a_good_body_counts_when_it_has_ended(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer
) -> None:
    """A response is a success at the end of its body, not at its headers, and once."""
    async with client.stream("GET", dependency.url) as response:
        assert response.status_code == 200
        assert counted(auth) == {}
        assert await response.aread() == b"fine"
        assert counted(auth) == PASSED
    assert counted(auth) == PASSED


async def test_bodies_are_streamed(auth: Breaker, dependency: RawServer) -> None:
    """A chunk reaches the caller before the next one is sent: nothing is collected."""
    dependency.script = waits(CHUNKED, b"2\r\nfi\r\n", then=b"2\r\nne\r\n0\r\n\r\n")
    async with (
        httpx.AsyncClient(transport=BreakerTransport(auth)) as client,
        client.stream("GET", dependency.url) as response,
    ):
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"fi"
        dependency.go.set()
        assert [chunk async for chunk in chunks] == [b"ne"]
    assert counted(auth) == PASSED


async def test_a_body_that_its_caller_leaves_is_neutral(auth: Breaker, dependency: RawServer) -> None:
    """A caller who closes a body early, read in part or not, is neutral and frees its connection."""
    dependency.script = waits(OK, b"fi")
    transport = BreakerTransport(auth, httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1)))
    async with httpx.AsyncClient(transport=transport) as client:
        async with client.stream("GET", dependency.url):
            pass
        assert counted(auth) == LEFT
        async with client.stream("GET", dependency.url) as response:
            assert await anext(response.aiter_raw()) == b"fi"
        assert counted(auth) == {Outcome.CANCELLED: 2}


async def test_a_body_that_cannot_be_decoded_is_neutral(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer
) -> None:
    """A body that arrives whole and is not what its encoding says is left by httpx, and counts as left."""
    dependency.script = says(OK.replace(b"OK", b"OK\r\nContent-Encoding: gzip"), b"fine")
    with pytest.raises(httpx.DecodingError):
        await client.get(dependency.url)
    await eventually(lambda: counted(auth) == LEFT, "the body to be left")


@pytest.mark.parametrize("script", [waits(), IN_THE_BODY], ids=["before the headers", "in the body"])
async def test_a_caller_that_is_cancelled_is_neutral(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer, script: Script
) -> None:
    """Cancellation is neutral, wherever it strikes."""
    got_headers = asyncio.Event()

    async def call() -> None:
        async with client.stream("GET", dependency.url) as response:
            got_headers.set()
            await response.aread()

    dependency.script = script
    caller = asyncio.create_task(call())
    await eventually(lambda: dependency.requests == 1, "the request to arrive")
    if script is IN_THE_BODY:
        await got_headers.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert got_headers.is_set() == (script is IN_THE_BODY)
    assert counted(auth) == LEFT


@pytest.mark.parametrize(
    ("method", "head"),
    [("HEAD", OK), ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"), ("GET", OK.replace(b"4", b"0"))],
    ids=["HEAD", "204", "length 0"],
)
async def test_a_response_without_a_body_needs_no_reading(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer, method: str, head: bytes
) -> None:
    """What can have no body is judged by its headers, so closing it unread is no early leave."""
    dependency.script = says(head)
    async with client.stream(method, dependency.url):
        assert counted(auth) == PASSED
    assert counted(auth) == PASSED


async def test_a_failing_status_counts_at_once_and_once(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer
) -> None:
    """A 503 is a failure when its headers arrive; what becomes of its body changes nothing."""
    dependency.script = waits(OK.replace(b"200 OK", b"503 Gone"), b"fi")
    async with client.stream("GET", dependency.url):
        assert counted(auth) == FAILED
    assert counted(auth) == FAILED
    with pytest.raises(httpx.ReadTimeout):
        await client.get(dependency.url, timeout=IMPATIENT)
    assert counted(auth) == {Outcome.FAILURE: 2}
    dependency.script = says(OK.replace(b"200 OK", b"503 Gone"), b"busy")
    assert (await client.get(dependency.url)).content == b"busy"
    assert counted(auth) == {Outcome.FAILURE: 3}


class Endless(httpx.AsyncByteStream):
    """A body without end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"more"


async def test_a_forgotten_response_holds_nothing(auth: Breaker) -> None:
    """A response that nobody reads or closes can be collected, and counts as nothing."""
    client = answering(auth, return_value=httpx.Response(200, stream=Endless()))
    async with client:
        response = await client.send(client.build_request("GET", "http://auth/"), stream=True)
        gone = weakref.ref(response.stream)
        del response
        client._transport._transport.handler = None  # type: ignore[attr-defined] # respx remembers what it answered
        gc.collect()
        assert gone() is None
    assert counted(auth) == {}


# -- connections


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (hangs_up(), httpx.RemoteProtocolError),
        (resets(), httpx.ReadError),
        (waits(), httpx.ReadTimeout),
        (says(b"what?\r\n\r\n"), httpx.RemoteProtocolError),
    ],
    ids=["no answer", "reset", "hangs", "garbage"],
)
async def test_a_connection_that_fails_counts(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer, script: Script, error: type[Exception]
) -> None:
    """A server that hangs up, resets, hangs or talks garbage fails the call; the caller gets httpx's own error."""
    dependency.script = script
    with pytest.raises(error):
        await client.get(dependency.url, timeout=IMPATIENT if error is httpx.ReadTimeout else 5)
    assert counted(auth) == FAILED


async def test_a_refused_connection_counts(auth: Breaker, client: httpx.AsyncClient) -> None:
    """Nobody there is a failure."""
    with pytest.raises(httpx.ConnectError):
        await client.get(f"http://127.0.0.1:{free_port()}/")
    assert counted(auth) == FAILED


async def test_an_idle_connection_may_be_dropped(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer
) -> None:
    """A server that closes a connection which has nothing to do has failed nobody."""
    await client.get(dependency.url)
    dependency.drop_all()
    await eventually(lambda: not dependency._writers, "the connection to be closed")
    await client.get(dependency.url)
    assert (dependency.requests, dependency.connections) == (2, 2)
    assert counted(auth) == {Outcome.SUCCESS: 2}


async def test_our_own_full_pool_is_ignored(auth: Breaker, dependency: RawServer) -> None:
    """A request that found no free connection says nothing of the dependency."""
    dependency.script = waits(OK)
    transport = BreakerTransport(auth, httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1)))
    async with httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(5, pool=0.01)) as client:
        async with client.stream("GET", dependency.url):
            with pytest.raises(httpx.PoolTimeout):
                await client.get(dependency.url)
        assert counted(auth) == IGNORED | LEFT


# -- statuses and errors, each by name


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.SUCCESS) for status in (200, 302, 404, 428, 430, 499)),
        *((status, Outcome.FAILURE) for status in (429, 500, 503, 599)),
    ],
)
async def test_a_status_counts(auth: Breaker, status: int, outcome: Outcome) -> None:
    """5xx and 429 are failures, other statuses are not; the response reaches the caller."""
    async with answering(auth, return_value=httpx.Response(status, text="body")) as client:
        response = await client.get("http://auth/")
    assert (response.status_code, response.text) == (status, "body")
    assert counted(auth) == {outcome: 1}


async def test_which_statuses_fail_is_a_setting(auth: Breaker) -> None:
    """With `failing`, 429 is no failure, or 404 is one."""
    for failing, status, outcome in ((range(500, 600), 429, "success"), ({404}, 404, "failure")):
        transport = httpx.MockTransport(lambda _, status=status: httpx.Response(status))
        async with httpx.AsyncClient(transport=BreakerTransport(auth, transport, failing=failing)) as client:
            await client.get("http://auth/")
        assert counted(auth)[Outcome(outcome)] == 1


THEIRS = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.WriteTimeout,
    httpx.CloseError, httpx.RemoteProtocolError, httpx.ProxyError, OSError,
)  # fmt: skip
OURS = (httpx.PoolTimeout, httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, RuntimeError)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        *((kind, Outcome.FAILURE) for kind in THEIRS),
        *((kind, Outcome.IGNORED) for kind in OURS),
        (asyncio.CancelledError, Outcome.CANCELLED),
    ],
)
async def test_an_error_counts(auth: Breaker, kind: type[BaseException], outcome: Outcome) -> None:
    """The dependency's errors are failures, our own are ignored, leaving is neutral; all pass through unchanged."""
    error = kind("oh")

    async def raises(_: httpx.Request) -> httpx.Response:
        raise error

    async with httpx.AsyncClient(transport=BreakerTransport(auth, httpx.MockTransport(raises))) as client:
        with pytest.raises(kind) as raised:
            await client.get("http://auth/")
    assert raised.value is error
    assert counted(auth) == {outcome: 1}


@pytest.mark.parametrize("kind", [LookupError, FileNotFoundError, httpx.ReadError, TimeoutError])
async def test_what_the_requests_own_body_raises_is_ignored(
    auth: Breaker, client: httpx.AsyncClient, dependency: RawServer, kind: type[Exception]
) -> None:
    """An upload that breaks at its source, as when a gateway's client goes away, is not the dependency's doing."""

    async def upload() -> AsyncIterator[bytes]:
        yield b"a part"
        raise kind("the source is gone")

    with pytest.raises(kind):
        await client.post(dependency.url, content=upload())
    assert counted(auth) == IGNORED


async def test_an_upload_arrives_as_it_was_sent(auth: Breaker) -> None:
    """A body that is made while it is sent goes through unchanged."""

    async def upload() -> AsyncIterator[bytes]:
        yield b"a part, "
        yield b"another"

    async def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=await request.aread())

    async with httpx.AsyncClient(transport=BreakerTransport(auth, httpx.MockTransport(echo))) as client:
        response = await client.post("http://auth/", content=upload())
    assert (response.content, counted(auth)) == (b"a part, another", PASSED)


async def test_the_policys_classification_has_its_say(breakers: Breakers, dependency: RawServer) -> None:
    """What the policy ignores is ignored, and its `result` judges responses that are no failures yet."""

    def degraded(response: httpx.Response) -> Outcome | None:
        seen.append(response.status_code)
        return Outcome.FAILURE if "degraded" in response.headers else None

    seen: list[int] = []
    policy = Policy(trip=TOLERANT.trip, classify=Classify(ignored=(httpx.ReadTimeout,), result=degraded))
    breaker = breakers.get("judged", policy)
    async with httpx.AsyncClient(transport=BreakerTransport(breaker)) as client:
        for head in (OK, OK.replace(b"OK", b"OK\r\nDegraded: 1"), OK.replace(b"200", b"500")):
            dependency.script = says(head, b"fine")
            await client.get(dependency.url)
        dependency.script = waits()
        with pytest.raises(httpx.ReadTimeout):
            await client.get(dependency.url, timeout=IMPATIENT)
    assert seen == [200, 200]
    assert counted(breaker) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 2, Outcome.IGNORED: 1}


# -- the refusal, and how the dependency asks for one


async def test_a_refusal_is_not_an_httpx_error(breakers: Breakers) -> None:
    """An open circuit raises `CircuitOpenError` through httpx, and no request is sent."""
    breaker = breakers.get("auth", STRICT)
    async with answering(breaker, return_value=httpx.Response(500)) as client:
        for _ in range(3):
            await client.get("http://auth/")
        with pytest.raises(CircuitOpenError, match="circuit 'auth' is open") as refused:
            await client.get("http://auth/")
    assert not isinstance(refused.value, httpx.HTTPError)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, b"Retry-After: 120", 120),
        (503, b"Retry-After: 120", 120),
        (
            503,
            b"Date: Tue, 29 Feb 2000 23:59:30 GMT\r\nRetry-After: Wed, 01 Mar 2000 00:01:30 GMT",
            120,
        ),
        (503, b"Retry-After: 100000", 300),
        (500, b"Retry-After: 120", 1),
    ],
    ids=["429", "503", "a date, by another clock", "beyond the maximum", "500"],
)
async def test_retry_after_lengthens_the_cooldown(
    breakers: Breakers, dependency: RawServer, status: int, headers: bytes, seconds: float
) -> None:
    """A 429 or 503 that asks for peace gets it, up to the policy's maximum, whatever anybody's clock says."""
    dependency.script = says(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n".encode(), headers, b"\r\n\r\n")
    breaker = breakers.get("auth", STRICT)
    async with httpx.AsyncClient(transport=BreakerTransport(breaker)) as client:
        for _ in range(3):
            await client.get(dependency.url)
    await eventually(lambda: breaker.state == State.OPEN, "the circuit to open")
    transition = breaker.snapshot.transition
    assert transition
    assert transition.cooldown == pytest.approx(seconds, abs=0.1)
    assert transition.error == str(status)


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("asked", "date", "seconds"),
    [
        ("0", DATE, 0),
        (" 7 ", DATE, 7),
        ("9" * 5000, DATE, 86_400),
        ("Sun, 06 Nov 1994 08:50:07 GMT", DATE, 30),
        ("Sunday, 06-Nov-94 08:50:07 GMT", DATE, 30),
        ("Sun Nov  6 08:50:07 1994", DATE, 30),
        ("Sun, 06 Nov 1994 08:49:07 GMT", DATE, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DATE, 86_400),
        ("Sun, 06 Nov 1994 08:50:07 GMT", None, 0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", "yesterday", 0),
        (None, DATE, 0),
        ("", DATE, 0),
        ("-5", DATE, 0),
        ("1.5", DATE, 0),
        ("1e5", DATE, 0),
        ("inf", DATE, 0),
        ("\u00b2", DATE, 0),
        ("5, 10", DATE, 0),
        ("soon", DATE, 0),
        ("Sun, 99 Nov 1994 08:50:07 GMT", DATE, 0),
        (f"Sun, 06 Nov {'9' * 30} 08:50:07 GMT", DATE, 0),
    ],
)
def test_retry_after_is_read_as_it_stands(asked: str | None, date: str | None, seconds: float) -> None:
    """Seconds, and the three forms of a date against the response's own `Date`; anything else says nothing."""
    headers = {"retry-after": asked, "date": date}
    sent = [(name, value.encode("latin-1")) for name, value in headers.items() if value is not None]
    assert retry_after(httpx.Response(503, headers=[(name.encode(), value) for name, value in sent])) == seconds


@given(asked=st.text(max_size=60), date=st.text(max_size=60))
def test_no_header_can_hurt(asked: str, date: str) -> None:
    """Whatever a dependency sends, the answer is a number of seconds in range."""
    headers = {"retry-after": asked.encode("utf-8", "replace"), "date": date.encode("utf-8", "replace")}
    raw = [(name.encode(), value) for name, value in headers.items()]
    assert 0 <= retry_after(httpx.Response(429, headers=raw)) <= 86_400


# -- one breaker per host


async def test_each_host_and_port_has_its_own_breaker(breakers: Breakers) -> None:
    """One host's failures open its own circuit only; the port belongs to the host."""
    async with answering(breakers, policy=STRICT, side_effect=_sick) as client:
        for _ in range(3):
            await client.get("http://sick.example/")
        with pytest.raises(CircuitOpenError):
            await client.get("http://SICK.example:80/other")
        for url in ("http://sick.example:8080/", "http://well.example/", "http://[::1]:8080/"):
            assert (await client.get(url)).status_code == 200
    named = {breaker.name for breaker in breakers}
    assert {"sick.example", "well.example"} < named
    assert len(named) == 4
    assert all(breaker.policy is STRICT for breaker in breakers)


def _sick(request: httpx.Request) -> httpx.Response:
    return httpx.Response(500 if request.url.netloc == b"sick.example" else 200)


async def test_the_key_is_a_setting(breakers: Breakers) -> None:
    """A key function decides which requests share a breaker."""
    transport = BreakerTransport(
        breakers, httpx.MockTransport(_sick), key=lambda request: request.method, policy=TOLERANT
    )
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://a/")
        await client.get("http://b/")
        await client.post("http://a/")
    assert {breaker.name: counted(breaker) for breaker in breakers} == {"GET": {Outcome.SUCCESS: 2}, "POST": PASSED}


@pytest.mark.parametrize(
    "key",
    ["", "a:80", "[::1]", "a b", "a/b", "a\nb", "a%2Fb", "\u00fc", "\ud800", "x" * 201, "__", "a__b", "{auth}", "a\n"],
)
def test_a_hostile_key_becomes_a_legal_name(key: str) -> None:
    """Any text becomes a legal name that says whose it is."""
    assert re.fullmatch(r"[A-Za-z0-9._-]*__[0-9a-f]{32}", name_of(key))
    assert len(name_of(key)) <= 200


@given(st.lists(st.text(alphabet="aA_:.-/\u00fc", max_size=6) | st.text(max_size=300), unique=True, max_size=30))
def test_no_two_keys_share_a_breaker(keys: list[str]) -> None:
    """Different keys have different names; one that is a name of another's making is no exception."""
    keys = list(dict.fromkeys([*keys, *map(name_of, keys)]))
    assert len(set(map(name_of, keys))) == len(keys)


# -- probes


@pytest.fixture
def clock() -> FakeClock:
    """A clock to move."""
    return FakeClock()


@pytest.fixture
async def tripped(clock: FakeClock) -> AsyncIterator[Breaker]:
    """A breaker whose cooldown is over: the next call is the round's only probe."""
    async with Breakers(MemoryStore(clock=clock), clock=clock, store_budget=PATIENCE) as breakers:
        breaker = breakers.get("auth", STRICT)
        async with answering(breaker, return_value=httpx.Response(500)) as client:
            for _ in range(3):
                await client.get("http://auth/")
        await breakers.flush()
        clock.advance(1)
        yield breaker


async def test_a_probe_lasts_until_its_body_has_ended(tripped: Breaker, dependency: RawServer) -> None:
    """A probe's place is taken until the end of its body; then its caller finds the circuit closed."""
    dependency.script = waits(OK, b"fi", then=b"ne")
    async with (
        httpx.AsyncClient(transport=BreakerTransport(tripped)) as client,
        client.stream("GET", dependency.url) as response,
    ):
        assert tripped.state == State.HALF_OPEN
        with pytest.raises(CircuitOpenError):
            await client.get(dependency.url)
        dependency.go.set()
        await response.aread()
        assert tripped.state == State.CLOSED
    assert dependency.requests == 1


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (hangs_up(OK, b"fi"), httpx.RemoteProtocolError),
        (hangs_up(), httpx.RemoteProtocolError),
        (says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), None),
    ],
    ids=["body breaks", "no answer", "500"],
)
async def test_a_probe_that_fails_opens_again(
    tripped: Breaker, dependency: RawServer, script: Script, error: type[Exception] | None
) -> None:
    """When the caller of a failed probe has its result, the circuit is open again."""
    dependency.script = script
    async with httpx.AsyncClient(transport=BreakerTransport(tripped)) as client:
        with pytest.raises(error) if error else contextlib.nullcontext():
            await client.get(dependency.url)
        assert tripped.state == State.OPEN


async def test_a_probe_that_its_caller_leaves_gives_its_place_back(tripped: Breaker, dependency: RawServer) -> None:
    """A probe whose body is closed early is neutral, and the next caller may probe at once."""
    dependency.script = waits(OK, b"fi")
    async with httpx.AsyncClient(transport=BreakerTransport(tripped)) as client:
        async with client.stream("GET", dependency.url):
            pass
        dependency.script = says(OK, b"fine")
        await client.get(dependency.url)
    assert tripped.state == State.CLOSED
    assert dependency.requests == 2


async def test_a_probe_answered_by_a_mock_is_settled(tripped: Breaker) -> None:
    """In a user's own test, with respx in the dependency's place, a probe closes the circuit as it would outside."""
    async with answering(tripped, return_value=httpx.Response(200, json={})) as client:
        await client.get("http://auth/")
        assert tripped.state == State.CLOSED


# -- the transport itself


def test_wrong_arguments_are_refused(breakers: Breakers) -> None:
    """A wrong argument is a `ValueError` that names it."""
    with pytest.raises(ValueError, match="breakers must be a Breaker or Breakers, not 'auth'"):
        BreakerTransport("auth")  # type: ignore[arg-type]
    breaker = breakers.get("auth")
    for wrong in ({"policy": STRICT}, {"key": lambda _: "a"}):
        with pytest.raises(ValueError, match="key and policy are for Breakers, and <Breaker 'auth'"):
            BreakerTransport(breaker, **wrong)


async def test_closing_the_client_closes_the_transport_beneath(auth: Breaker) -> None:
    """The guarded transport is closed once with the client, and by `async with` of its own."""

    class Counting(httpx.AsyncBaseTransport):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    inner = Counting()
    async with httpx.AsyncClient(transport=BreakerTransport(auth, inner)):
        pass
    assert inner.closed == 1
    async with BreakerTransport(auth, inner):
        pass
    assert inner.closed == 2
