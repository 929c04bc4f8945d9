"""What the routes answer: JSON, problems (RFC 9457) and events."""

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from sse_starlette import ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from commontrip._errors import StoreUnavailableError
from commontrip._transition import Epoch

SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""What every answer says: it is of this moment, and it is what it says it is."""

Endpoint = Callable[[Request], Awaitable[Response]]


def reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON or, if the status is not 200, with a problem whose detail is the body."""
    safe = SAFE | dict(headers or {})
    if status == HTTPStatus.OK:
        return Response(json.dumps(body, default=plain), status, safe, "application/json")
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": body}
    return Response(json.dumps(problem), status, safe, "application/problem+json")


def answering(endpoint: Endpoint) -> Endpoint:
    """Turn what an endpoint raises into a problem."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as error:
            return reply(error.detail, error.status_code, error.headers)
        except (ValueError, OverflowError, RecursionError) as error:
            return reply(str(error), 400)
        except StoreUnavailableError:
            return reply("the store did not confirm it: look before you repeat it", 503, {"Retry-After": "1"})

    return answer


def plain(record: Any) -> Any:
    """Return what JSON does not know as something that it knows."""
    names = () if isinstance(record, Epoch) else [field.name for field in dataclasses.fields(record)]
    return {name: getattr(record, name) for name in names} or str(record)


def event(kind: str, data: object, number: str | None = None, *, retry: int | None = None) -> bytes:
    """Return a server-sent event; `retry` tells clients after how many ms to come again."""
    return ServerSentEvent(json.dumps(data, default=plain), event=kind, id=number, retry=retry).encode()
