"""What comes back from auth: checked beneath the breaker, so that an answer that is none counts as a failure."""

import asyncio
import json
from math import inf
from typing import Any

import httpx

from apps.profile.known import Roles

MOST_BYTES = 65_536
REFUSALS = (403, 404, 410)
"""What auth says of a user who has no rights, whatever it sends along."""
_LONGEST = 10 * 365 * 86_400
"""Seconds of validity that are no limit: some say "for ever" with the largest number that they have."""


class UnusableAnswerError(httpx.RemoteProtocolError):
    """auth said 200 and sent no auth info; for the breaker above as bad as a broken connection."""


class CheckedTransport(httpx.AsyncBaseTransport):
    """Reads the whole answer within `seconds` and 64 KiB, and takes a 200 only for what it should be.

    The roles and the seconds for which they are valid are left in the response's extensions, as `said`.
    Too slow in all is a `ReadTimeout`, as one that is too slow at once: a body that trickles is no answer. A refusal
    is one, however its body ends. Time in which all our own connections were in use is not auth's.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Ask; the request's extension `user` says whose info is expected."""
        response: httpx.Response | None = None
        clock = asyncio.get_running_loop().time
        waiting = request.extensions["timeout"]["pool"] or 0.0
        try:
            async with asyncio.timeout(waiting + self._seconds) as limit:
                request.extensions["placed"] = lambda: limit.reschedule(clock() + self._seconds)
                response = await self._transport.handle_async_request(request)
                body = await _read(response)
        except (TimeoutError, httpx.TransportError) as error:
            if response is not None and response.status_code in REFUSALS:
                return response
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout(f"no whole answer within {self._seconds:g} s", request=request) from None
            raise
        if response.status_code == httpx.codes.OK:
            response.extensions["said"] = _checked(response, body, request)
        return response

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._transport.aclose()


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MOST_BYTES:
                raise UnusableAnswerError(f"auth's answer has more than {MOST_BYTES} bytes")
    finally:
        await response.aclose()
    return bytes(body)


def _checked(response: httpx.Response, body: bytes, request: httpx.Request) -> tuple[Roles, float]:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnusableAnswerError(f"auth's answer is {kind!r}, not JSON")
    try:
        return _parse(json.loads(body), request.extensions["user"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnusableAnswerError(f"auth's answer cannot be used: {type(error).__name__}") from None


def _parse(answer: Any, user: str) -> tuple[Roles, float]:
    """Take roles and validity, and nothing else; raise for another user's, and for what is malformed."""
    roles, valid_for = answer["roles"], answer.get("valid_for_seconds")
    proper = (
        answer["user_id"] == user
        and isinstance(roles, list)
        and (valid_for is None or (isinstance(valid_for, int | float) and 0 <= valid_for < inf))
    )
    if not proper:
        raise ValueError(answer)
    "".join(roles).encode()  # raises for what is no text, or none that can be passed on
    until = inf if valid_for is None or valid_for > _LONGEST else float(valid_for)
    return tuple(sorted(set(roles))), until  # in whatever order auth says them, they are the same rights
