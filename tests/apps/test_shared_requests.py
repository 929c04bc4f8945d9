"""What is around every request: limits, problems, ids, traces, logs; over real sockets where those are needed."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from apps.shared import connection, logs
from apps.shared.health import Health
from apps.shared.metrics import Metrics
from apps.shared.requests import Requests
from apps.shared.service import assemble
from apps.shared.settings import ServiceSettings
from tests.apps.running import Listening, listening, problem, served
from tests.support.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n"


class Plain:
    """A service with nothing but what all have."""

    def __init__(self, **settings: Any) -> None:
        self.settings = ServiceSettings(**settings)
        self.closed: list[str] = []
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        paths = {
            "/echo": self._echo,
            "/fail": self._fail,
            "/half": self._half,
            "/hold": self._hold,
            "/endless": self._endless,
        }
        methods = ["GET", "POST"]
        routes = [Route(path, endpoint, methods=methods) for path, endpoint in paths.items()]
        self.health = Health()
        body = 1000
        self.app = assemble(
            self.settings, self.health, Metrics("plain"), routes, resources=self._resources, body_limit=body
        )

    @asynccontextmanager
    async def _resources(self) -> AsyncIterator[None]:
        yield
        self.closed.append("draining" if self.health.draining else "not draining")

    async def _echo(self, request: Request) -> Response:
        body = await request.body()
        logging.getLogger("apps.test").info("asked")
        return JSONResponse(
            {"length": len(body), "trace": f"{trace.get_current_span().get_span_context().trace_id:032x}"}
        )

    async def _fail(self, _: Request) -> Response:
        raise LookupError("secret")

    async def _half(self, _: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise LookupError("secret")

        return StreamingResponse(chunks())

    async def _hold(self, _: Request) -> Response:
        self.began.set()
        await self.go.wait()
        return JSONResponse("held")

    async def _endless(self, _: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                self.began.set()
                yield b"x" * 1000
                await asyncio.sleep(0.005)

        return StreamingResponse(chunks())


@pytest.fixture
def plain() -> Plain:
    """The service."""
    return Plain()


@pytest.fixture
async def client(plain: Plain) -> AsyncIterator[httpx.AsyncClient]:
    """It, in process."""
    async with served(plain.app) as found:
        yield found


@pytest.fixture
async def port(plain: Plain) -> AsyncIterator[Listening]:
    """It, behind a port."""
    async with listening(plain.app, plain.settings) as found:
        yield found


def answers(raw: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Split what came over a connection into statuses and problems."""
    found, rest = [], raw
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", 0))
        body, rest = rest[:length], rest[length:]
        if int(lines[0].split()[1]) >= 400:
            assert fields["content-type"] == "application/problem+json"
        found.append((int(lines[0].split()[1]), json.loads(body)))
    return found


def no_tracebacks(logged: pytest.LogCaptureFixture) -> None:
    """Assert that nothing of what clients did was logged as our mistake."""
    assert [record for record in logged.records if record.exc_info or record.levelno >= logging.ERROR] == []


REQUESTS: dict[str, tuple[bytes, list[int]]] = {
    "no HTTP": (b"hello\r\n\r\n", [400]),
    "bytes": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    "no host": (b"GET /echo HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (GET + b"Host: b\r\n\r\n", [400]),
    "host that is none": (b"GET /echo HTTP/1.1\r\nHost: a/b@c\r\n\r\n", [400]),
    "hosts that are some": (
        b"".join(b"GET /echo HTTP/1.1\r\nHost: %s\r\n\r\n" % host for host in (b"[::1]:80", b"a.b-c:8080", b"")),
        [200, 200, 200],
    ),
    "unknown version": (b"GET /echo HTTP/3.7\r\nHost: a\r\n\r\n", [400]),
    "odd method": (b"GE(T /echo HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "space in path": (b"GET /ec ho HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "bytes in path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "null in path": (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [404]),
    "header without name": (GET + b": x\r\n\r\n", [400]),
    "folded header": (GET + b"a: b\r\n c\r\n\r\n", [400]),
    "space before colon": (GET + b"content-length : 3\r\n\r\nabc", [400]),
    "bare line break": (GET + b"a: b\rset-cookie: x=y\r\n\r\n", [400]),
    "null in header": (GET + b"a: b\x00c\r\n\r\n", [400]),
    "two lengths": (b"POST" + GET[3:] + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", [400]),
    "negative length": (b"POST" + GET[3:] + b"content-length: -3\r\n\r\n", [400]),
    "odd length": (b"POST" + GET[3:] + b"content-length: 0x3\r\n\r\nabc", [400]),
    "endless length": (b"POST" + GET[3:] + b"content-length: " + b"9" * 40 + b"\r\n\r\n", [400]),
    "length and chunks": (
        b"POST" + GET[3:] + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        [400],
    ),
    "coded and in chunks": (b"POST" + GET[3:] + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [400]),
    "chunks in capitals": (b"POST" + GET[3:] + b"transfer-encoding: Chunked\r\n\r\n0\r\n\r\n", [200]),
    "odd chunks": (b"POST" + GET[3:] + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", [400]),
    "length too great": (b"POST" + GET[3:] + b"content-length: 1001\r\n\r\n" + b"x" * 1001, [413]),
    "chunks too great": (
        b"POST"
        + GET[3:]
        + b"transfer-encoding: chunked\r\n\r\n"
        + (b"200\r\n" + b"x" * 512 + b"\r\n") * 2
        + b"0\r\n\r\n",
        [413],
    ),
    "more than said": (b"POST" + GET[3:] + b"content-length: 3\r\n\r\nabcGARBAGE\r\n\r\n", [400]),
    "long path": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n", [414]),
    "many headers": (GET + b"a: b\r\n" * 100 + b"\r\n", [431]),
    "large header": (GET + b"a: " + b"b" * 17_000 + b"\r\n\r\n", [431]),
    "endless header": (GET + b"a: " + b"b" * 100_000, [431]),
    "endless path": (b"GET /" + b"a" * 100_000, [431]),
    "unknown path": (b"GET /%2e%2e/echo HTTP/1.1\r\nHost: a\r\n\r\n", [404]),
    "wrong method": (b"DELETE /echo HTTP/1.1\r\nHost: a\r\n\r\n", [405]),
    "upgrade": (GET + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", [200]),
    "two at once": (GET + b"\r\n" + GET + b"\r\n", [200, 200]),
}


async def test_bad_requests(port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """Whatever a client sends, it gets a problem of status 4xx, nothing is leaked, and it is no error of ours."""
    raw = await asyncio.gather(*(port.raw(sent, within=0.3) for sent, _ in REQUESTS.values()))
    found = dict(zip(REQUESTS, map(answers, raw), strict=True))
    statuses = {name: [status for status, _ in got] for name, got in found.items()}
    assert statuses == {name: expected for name, (_, expected) in REQUESTS.items()}
    for status, body in (one for got in found.values() for one in got if one[0] >= 400):
        assert body["status"] == status
        assert set(body) <= {"type", "title", "status", "detail", "request_id"}
        assert not {"Traceback", "uvicorn", "starlette"} & set(body["detail"].split())
    no_tracebacks(logged)


async def test_short_body(port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """A client that promises more than it sends and leaves is nobody's mistake but its own."""
    _, writer = await asyncio.open_connection("127.0.0.1", port.port)
    writer.write(b"POST" + GET[3:] + b"content-length: 100\r\n\r\nabc")
    await writer.drain()
    writer.close()
    await eventually(lambda: "POST /echo 499" in logged.text, "the request to end")
    no_tracebacks(logged)


async def test_client_leaves_in_the_middle(plain: Plain, port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """A client that hangs up in the middle of an answer ends the answer, and is no error of ours."""
    _, writer = await asyncio.open_connection("127.0.0.1", port.port)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    await plain.began.wait()
    writer.close()
    await eventually(lambda: not port.server.server_state.tasks, "the answer to end")
    no_tracebacks(logged)


async def test_idle_and_slow_clients_are_left(
    monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    """Who sends nothing, half a head, or the rest of a refused body without end, is hung up on."""
    monkeypatch.setattr(connection, "SLOWEST_HEAD", 0.05)
    plain = Plain()
    config = {"timeout_keep_alive": 0.1}
    async with listening(plain.app, plain.settings) as port:
        port.server.config.timeout_keep_alive = config["timeout_keep_alive"]
        endless = b"POST" + GET[3:] + b"content-length: 5000\r\n\r\n"
        sent = ((b"",), (GET,), (GET + b"\r\n",), (endless, b"x" * 3000))
        found = await asyncio.gather(*(port.raw(*parts, within=2, closes=True) for parts in sent))
        assert [[status for status, _ in answers(raw)] for raw in found] == [[], [408], [200], [413]]
    no_tracebacks(logged)


async def test_our_mistake(client: httpx.AsyncClient, logged: pytest.LogCaptureFixture) -> None:
    """What nobody caught is a 500 that tells nothing, and one log line with its traceback."""
    response = await client.get("/fail")
    assert problem(response, 500) == "this is our mistake; it has been noted"
    assert "secret" not in response.text
    [record] = [record for record in logged.records if record.exc_info]
    assert record.getMessage() == "GET /fail failed"


async def test_our_mistake_in_the_middle(port: Listening, logged: pytest.LogCaptureFixture) -> None:
    """An answer that fails in its middle breaks off, so that nobody takes it for whole, and is logged once."""
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{port.url}/half")
    assert len([record for record in logged.records if record.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1", True), ("a" * 129, False), ("a b", False), ("a\tb", False), ("é", False), ("", False), (None, False)],
)
async def test_request_id(given: str | None, kept: bool, client: httpx.AsyncClient) -> None:  # noqa: FBT001
    """A request has an id in its answer and its problems: the client's if that is a legal one, else a new one."""
    headers = {} if given is None else {"x-request-id": given.encode()}
    response = await client.get("/nowhere", headers=headers)
    name = response.headers["x-request-id"]
    assert (name == given) == kept
    assert response.json()["request_id"] == name


async def test_trace_is_in_the_logs(client: httpx.AsyncClient) -> None:
    """What is logged while a request runs carries the trace and the request, and what comes after does not."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("plain"))
    logger = logging.getLogger("apps.test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "abc"}
        assert (await client.get("/echo", headers=headers)).json()["trace"] == TRACE
        logger.info("line\nbreak", extra={"breaker": "auth"})
    finally:
        logger.removeHandler(handler)
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert (inside["trace_id"], inside["span_id"], inside["request_id"]) == (TRACE, "b7ad6b7169203331", "abc")
    assert (outside["message"], outside["breaker"]) == ("line\nbreak", "auth")
    assert {"trace_id", "request_id"} & set(outside) == set()


def test_log_line_with_an_exception() -> None:
    """A logged exception is one line too."""
    error = LookupError("x\ny")
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", None, (LookupError, error, None))
    line = logs.JsonFormatter("plain").format(record)
    assert "\n" not in line
    assert "LookupError: x\ny" in json.loads(line)["exception"]


async def test_websocket_is_refused(plain: Plain) -> None:
    """A websocket is closed, not served."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await plain.app({"type": "websocket", "headers": [], "path": "/echo"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_drain(logged: pytest.LogCaptureFixture) -> None:
    """At SIGTERM: not ready, but answering; then no new connections; then what runs is finished; then clients close."""
    plain = Plain(drain_seconds=0.3)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(plain.app, plain.settings))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=port.url))
        assert (await client.get("/readyz")).status_code == 200
        held = asyncio.create_task(client.get("/hold"))
        await plain.began.wait()
        port.server.handle_exit(15, None)
        await eventually(lambda: plain.health.draining, "the drain to begin")
        problem(await client.get("/readyz"), 503)
        answer = await client.get("/echo")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await eventually(lambda: port.server.should_exit, "the wait to be over")
        await eventually(lambda: _refused(port), "the port to be closed")
        assert plain.closed == []
        plain.go.set()
        assert (await held).json() == "held"
    assert plain.closed == ["draining"]
    no_tracebacks(logged)


def _refused(port: Listening) -> bool:
    return not any(server.is_serving() for server in port.server.servers)


async def test_second_signal_ends_the_wait() -> None:
    """A second signal ends the wait before the port is closed, and a third the wait for what runs."""
    plain = Plain(drain_seconds=60, shutdown_seconds=60)
    async with listening(plain.app, plain.settings) as port, httpx.AsyncClient(base_url=port.url) as client:
        held = asyncio.create_task(client.get("/hold"))
        await plain.began.wait()
        for _ in range(3):
            port.server.handle_exit(2, None)
        await eventually(lambda: _refused(port), "the port to be closed")
        plain.go.set()
        await asyncio.gather(held, return_exceptions=True)


async def test_who_does_not_end_is_cut_off(logged: pytest.LogCaptureFixture) -> None:
    """What runs beyond its time at shutdown is cut off, and that is no traceback."""
    plain = Plain(drain_seconds=0, shutdown_seconds=1)
    async with listening(plain.app, plain.settings) as port, httpx.AsyncClient(base_url=port.url) as client:
        port.server.config.timeout_graceful_shutdown = 0.05
        held = asyncio.create_task(client.get("/hold"))
        await plain.began.wait()
        port.server.handle_exit(15, None)
        with pytest.raises(httpx.RemoteProtocolError):
            await held
    assert [record for record in logged.records if record.exc_info] == []


async def test_connections_end_with_age() -> None:
    """A connection beyond its age ends with an answer that says so; until then it is kept."""
    plain = Plain(connection_age_seconds=0.05)
    async with listening(plain.app, plain.settings) as port, httpx.AsyncClient(base_url=port.url) as client:
        headers = []
        deadline = asyncio.get_running_loop().time() + 5
        while "connection" not in (headers[-1] if headers else {}):
            headers.append((await client.get("/echo")).headers)
            assert asyncio.get_running_loop().time() < deadline
        assert len(headers) > 1
        assert headers[-1]["connection"] == "close"
        assert "connection" not in (await client.get("/echo")).headers


async def test_answers_at_once(port: Listening) -> None:
    """An answer's head and body leave together: no delayed acknowledgement of 40 ms is waited for."""
    async with httpx.AsyncClient(base_url=port.url) as client:
        await client.get("/echo")
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            await client.get("/echo")
        assert asyncio.get_running_loop().time() - started < 20 * 0.03


async def test_lifespan_that_is_not_http(plain: Plain) -> None:
    """Scopes that are neither requests nor websockets are passed on."""
    seen: list[str] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append(scope["type"])

    around = Requests(inner, health=plain.health, metrics=Metrics("x"), access_log=True, connection_age=1)

    async def nothing(*_: Any) -> Any:
        return {}

    await around({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
