"""Limits on what a client may send: the address, the headers, the body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.shared.problems import Problem, problem

MOST_URL = 8_192
"""Bytes of path and query."""
MOST_HEADERS = 100
MOST_HEADER_BYTES = 16_384


class Limits:
    """Refuses with 414, 431, 413 and, for a request with no Host or two, 400; a body without a length is counted."""

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
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):
        return 400, "a request names one host"
    lengths = [value for name, value in headers if name == b"content-length"]
    if lengths and not (len(set(lengths)) == 1 and lengths[0].isdigit()):
        return 400, "a body has one length"
    return (413, too_large(limit)) if lengths and int(lengths[0]) > limit else None
