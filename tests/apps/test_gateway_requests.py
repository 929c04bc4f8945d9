"""What of a request reaches profile: its path to the byte, its headers but for one hop's, and who really asked."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx

from tests.apps.running import problem
from tests.apps.test_gateway_answers import ONE, OTHER, Gateways, gateway

__all__ = ["gateway"]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _answering(upstream: respx.MockRouter) -> None:
    """Upstreams that answer everything."""
    upstream.route().respond(200)


def sent(upstream: respx.MockRouter) -> httpx.Request:
    """The last request that reached profile."""
    return upstream.calls.last.request


def raw(path: str) -> httpx.URL:
    """An address whose path is not tidied by the client."""
    return httpx.URL("http://app").copy_with(raw_path=path.encode())


@pytest.mark.parametrize(
    "path",
    [
        "/profile",
        "/profile/ada",
        "/profile/a%20b?x=%2F&y=a+b&z",
        "/profile/%C3%A9;v=1/?",
        "/profile//x",
        "/profile/a~!$&'()*+,=:@",
    ],
)
async def test_path_is_passed_on_as_it_is(path: str, gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Path and query reach profile as the client wrote them."""
    assert (await (await gateway()).get(raw(path))).status_code == 200
    assert sent(upstream).url.raw_path.decode() == path.removesuffix("?")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/profiles", 404),
        ("/breakers/auth/override", 404),
        ("//profile/ada", 404),
        ("/profile/../breakers", 400),
        ("/profile/..%2fbreakers", 400),
        ("/profile/%2e%2e/breakers", 400),
        ("/profile/%2E./breakers", 400),
        ("/profile/./ada", 400),
        ("/profile/..", 400),
        ("/profile/ada%00", 400),
        ("/profile/ada%0d%0aHost:%20evil", 400),
        ("/profile/ada%5c..%5c", 400),
        ("/profile/ada%ff", 400),
        ("/profile/ada%c0%ae%c0%ae", 400),
        ("/profile/ada%", 400),
        ("/profile/ada%2", 400),
        ("/profile/ada%zz", 400),
    ],
)
async def test_path_that_is_a_trick(path: str, status: int, gateway: Gateways, upstream: respx.MockRouter) -> None:
    """A path that leads elsewhere than it says, or that no route is for, reaches nobody."""
    scope: dict[str, Any] = {"raw": path}
    client = await gateway()
    transport: Any = client._transport
    inner = transport.app

    async def untouched(asgi: Any, receive: Any, send: Any) -> None:
        await inner({**asgi, "raw_path": scope["raw"].encode()}, receive, send)

    transport.app = untouched
    problem(await client.get("/profile/ada"), status)
    assert len(upstream.calls) == 0


async def test_longest_prefix_wins(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Of several routes the longest prefix holds, by whole segments."""
    client = await gateway(routes={"/": (ONE,), "/profile": (OTHER,), "/profile/x": ("http://third.test",)})
    paths = ("/", "/profilex", "/profile", "/profile/ada", "/profile/x", "/profile/x/y", "/%70rofile/ada")
    for path in paths:
        await client.get(raw(path))
    hosts = [call.request.url.host.removesuffix(".test") for call in upstream.calls]
    assert hosts == ["one", "one", "other", "other", "third", "third", "other"]


async def test_headers_reach_profile(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Ends talk to each other: what is for one hop only stays behind, all else goes on, repeated headers too."""
    headers = [
        ("connection", "close, X-Private , upgrade"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("x-kept", "a"),
        ("x-kept", "b"),
        ("authorization", "Bearer t"),
        ("cookie", "a=b"),
        ("accept-encoding", "br"),
        ("user-agent", "me"),
        ("traceparent", TRACE),
        ("tracestate", "a=b"),
        ("x-request-id", "abc"),
    ]
    response = await (await gateway(routes={"/profile": (ONE,)})).get("/profile/ada", headers=headers)
    assert response.headers["x-request-id"] == "abc"
    assert sorted(sent(upstream).headers.multi_items()) == sorted(
        [
            ("accept", "*/*"),
            ("host", "one.test:8081"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "app"),
            ("x-forwarded-proto", "http"),
            *headers[7:],
        ]
    )


FORWARDED = {
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "example.org",
    "x-real-ip": "203.0.113.9",
    "forwarded": "for=203.0.113.9",
}


@pytest.mark.parametrize(
    ("trust", "expected"),
    [
        (False, {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "http", "x-forwarded-host": "app"}),
        (
            True,
            {
                "x-forwarded-for": "203.0.113.9, 192.0.2.7",
                "x-forwarded-proto": "https",
                "x-forwarded-host": "example.org",
            },
        ),
    ],
    ids=["no trust", "trust"],
)
async def test_who_asked(trust: bool, expected: dict[str, str], gateway: Gateways, upstream: respx.MockRouter) -> None:  # noqa: FBT001
    """Who asked is who is connected; what the client says of that is believed only with the setting."""
    await (await gateway(trust_forwarded=trust)).get("/profile/ada", headers=FORWARDED)
    assert {name: value for name, value in sent(upstream).headers.items() if name in FORWARDED} == expected


async def test_hop_by_hop_trick(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Naming our own headers in Connection does not remove them."""
    headers = {"connection": "x-forwarded-for, x-request-id, host, content-length, content-type"}
    await (await gateway()).post("/profile/ada", headers=headers, content=b"abc")
    for name in ("x-forwarded-for", "x-request-id", "host", "content-length"):
        assert name in sent(upstream).headers
    assert sent(upstream).content == b"abc"


async def test_one_request_id(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Without a legal id of the client's, profile and the client get the same new one."""
    response = await (await gateway()).get("/profile/ada", headers={"x-request-id": "a b"})
    assert len(response.headers.get_list("x-request-id")) == 1
    assert sent(upstream).headers["x-request-id"] == response.headers["x-request-id"] != "a b"


async def test_bodies_reach_profile(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """A body goes on as it came: with its length, or in chunks, or there is none."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"abc"

    client = await gateway()
    for content, framing in ((b"abc", "content-length"), (chunks(), "transfer-encoding"), (b"", "content-length")):
        await client.post("/profile/ada", content=content)
        assert framing in sent(upstream).headers
    assert [call.request.content for call in upstream.calls] == [b"abc", b"abcabcabc", b""]
    await client.get("/profile/ada")
    assert not {"content-length", "transfer-encoding"} & set(sent(upstream).headers)


async def test_body_too_large(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """A body above the limit is a 413, and if its length was said, it reaches nobody."""
    client = await gateway(body_bytes=10)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"abc"

    assert problem(await client.post("/profile/ada", content=b"x" * 11), 413) == "the body may have at most 10 bytes"
    assert len(upstream.calls) == 0
    problem(await client.post("/profile/ada", content=chunks()), 413)
    assert (await client.post("/profile/ada", content=b"x" * 10)).status_code == 200


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_methods_not_passed_on(method: str, gateway: Gateways, upstream: respx.MockRouter) -> None:
    """TRACE would show a caller what stands between; CONNECT is for another kind of proxy; the others are named."""
    answer = await (await gateway()).request(method, "/profile/ada")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert len(upstream.calls) == 0


async def test_answers_headers(gateway: Gateways, upstream: respx.MockRouter) -> None:
    """Of an answer's headers, what is for one hop stays behind, and bodies are passed on as they are encoded."""
    body = gzip.compress(b"hello")
    headers = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("content-encoding", "gzip"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-request-id", "theirs"),
    ]
    upstream.route().mock(return_value=httpx.Response(200, headers=headers, content=body))
    client = await gateway()
    answer = await client.get("/profile/ada", headers={"x-request-id": "ours"})
    assert answer.content == b"hello"
    assert sorted(answer.headers.multi_items()) == [
        ("content-encoding", "gzip"),
        ("content-length", str(len(body))),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-request-id", "ours"),
    ]
    client.cookies.clear()
    await client.get("/profile/ada")
    assert "cookie" not in sent(upstream).headers
