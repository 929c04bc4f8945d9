"""Limits on what a client may send: the address, the headers, the body."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.shared.problems import Problem, problem

MOST_URL = 8_192
"""Bytes of path and query."""
MOST_HEADERS = 100
MOST_HEADER_BYTES = 16_384
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?")


class Limits:
    """Refuses what is too much with 414, 431 and 413, and with 400 what could be read in two ways; counts bodies.

    That is a request with no Host, two, or one that is none, and a body coded for its transfer but by chunks.
    """

    def __init__(self, app: ASGIApp, *, body: int) -> None:
        self._app = app
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _refusal(scope, self._body)
        if refusal:
            await problem(*refusal)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._body:
                raise Problem(413, too_large(self._body))
            return message

        return counted


def too_large(limit: int) -> str:
    """Say what the limit is."""
    return f"the body may have at most {limit} bytes"


def _refusal(scope: Scope, limit: int) -> tuple[int, str] | None:
    headers = scope["headers"]
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_URL:
        return 414, f"path and query may have at most {MOST_URL} bytes"
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
        return 431, f"at most {MOST_HEADERS} headers and {MOST_HEADER_BYTES} bytes of them are taken"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)) or not (hosts or scope["http_version"] == "1.0"):
        return 400, "a request names one host"
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        return 400, "a body is chunked, or it has a length"
    lengths = [value for name, value in headers if name == b"content-length"]
    if lengths and not (len(set(lengths)) == 1 and lengths[0].isdigit()):
        return 400, "a body has one length"
    return (413, too_large(limit)) if lengths and int(lengths[0]) > limit else None
