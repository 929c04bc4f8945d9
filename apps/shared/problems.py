"""Errors as the client sees them: `application/problem+json` (RFC 9457), and nothing of our insides."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from apps.shared.logs import request_id

_SAID = {404: "there is nothing at this path", 405: "this path does not take this method"}


class Problem(HTTPException):
    """Raised anywhere below the app to answer with a problem; `detail` is for the client to read."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if request := request_id.get():
        body["request_id"] = request
    safe = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(json.dumps(body), status, safe | dict(headers or {}), "application/problem+json")


async def on_error(_: Request, error: Exception) -> Response:
    """Answer an `HTTPException`, Starlette's own for unknown paths and methods included."""
    known = cast("HTTPException", error)
    detail = known.detail if isinstance(known, Problem) else _SAID.get(known.status_code, known.detail)
    return problem(known.status_code, detail, known.headers)
