"""Headers on their way through: what is for one hop only stays behind, and who asked is told."""

from collections.abc import Iterable

import httpx
from starlette.types import Scope

from apps.shared.logs import request_id

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"trailers", b"transfer-encoding", b"upgrade"),
    }
)
_OURS = frozenset({b"host", b"content-length", b"expect", b"x-request-id"})
_FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_UNTRUSTED = frozenset({*_FORWARDED, b"x-forwarded-port", b"x-real-ip", b"forwarded"})
_ANSWERED_BY_US = frozenset({b"date", b"x-request-id"})
_BODILESS = (204, 304)


def request_headers(scope: Scope, host: bytes, *, trust: bool) -> Headers:
    """Return the headers for the service; `trust` says whether the client's X-Forwarded-* are believed."""
    given: Headers = scope["headers"]
    dropped = _dropped(given) | _OURS | _UNTRUSTED
    headers = [(b"host", host), (b"x-request-id", request_id.get().encode()), *_forwarded(scope, trust=trust)]
    headers += [header for header in given if header[0] not in dropped]
    return headers + _framing(given)


def response_headers(response: httpx.Response) -> Headers:
    """Return the headers for the client.

    A length beside chunks is none (RFC 9112, 6.3), and where no body may follow we are not the ones to promise one.
    """
    lower = [(name.lower(), value) for name, value in response.headers.raw]
    dropped = _dropped(lower) | _ANSWERED_BY_US
    if response.status_code in _BODILESS or any(name == b"transfer-encoding" for name, _ in lower):
        dropped |= {b"content-length"}
    return [header for header in lower if header[0] not in dropped]


def has_body(headers: Headers) -> bool:
    """Whether a request says that it has one."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _framing(given: Headers) -> Headers:
    """Return how long the body is, as the client said; not all of what it said about that is passed on."""
    lengths = [value for name, value in given if name == b"content-length"]
    if lengths:
        return [(b"content-length", lengths[0])]
    return [(b"transfer-encoding", b"chunked")] if has_body(given) else []


def _dropped(headers: Headers) -> frozenset[bytes]:
    named = (value for name, value in headers if name == b"connection")
    return _HOP_BY_HOP.union(token.strip().lower() for value in named for token in value.split(b","))


def _forwarded(scope: Scope, *, trust: bool) -> Headers:
    given = _first(scope["headers"]) if trust else {}
    peer = (scope["client"] or ("unknown",))[0].encode()
    chain = [value for name, value in scope["headers"] if trust and name == b"x-forwarded-for"]
    host = b"".join(value for name, value in scope["headers"] if name == b"host")
    proto = scope["scheme"].encode()
    return [
        (b"x-forwarded-for", b", ".join([*chain, peer])),
        (b"x-forwarded-proto", given.get(b"x-forwarded-proto", proto)),
        (b"x-forwarded-host", given.get(b"x-forwarded-host", host)),
    ]


def _first(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return {name: value for name, value in reversed(list(headers)) if name in _FORWARDED}
