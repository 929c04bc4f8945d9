"""`BreakerTransport`: a breaker, or one per host, under an `httpx.AsyncClient`."""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Container
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import cast

import httpx

from commontrip._breaker import Breaker
from commontrip._breakers import Breakers
from commontrip._calls import Call
from commontrip._policy import Policy
from commontrip._state import Outcome

FAILING = frozenset({429, *range(500, 600)})
"""Statuses that count as failures, unless told otherwise."""
_SPEAKS_FOR_ALL = (429, 503)  # elsewhere Retry-After is about one resource
_LONGEST = 86_400.0  # no cooldown is longer
_THEIRS = (httpx.TransportError, OSError)
_OURS = (httpx.PoolTimeout, httpx.LocalProtocolError, httpx.UnsupportedProtocol)
_PLAIN = re.compile(r"(?!.*__)[A-Za-z0-9._-]{1,200}")


def host_and_port(request: httpx.Request) -> str:
    """Return `host`, or `host:port` where the port is not the scheme's own; the default key."""
    return request.url.netloc.decode("ascii")


class BreakerTransport(httpx.AsyncBaseTransport):
    """Guards each request, and each redirect, that goes through another transport; shared between tasks like that one.

    A refusal raises `CircuitOpenError`, which is no httpx error: catch it beside `httpx.HTTPError`.
    A failing status counts when its headers arrive, with the Retry-After of a 429 or 503. Any other response counts
    when its body has ended, so that a body which breaks or stalls is a failure; bodies are streamed as before. A
    caller who closes one early, or is cancelled, is neutral, and so is a body that httpx cannot decode: that is found
    out above this transport, and closes it early. Errors of connecting, reading, writing and protocol, and
    httpx's timeouts, count as the policy classifies them; our own saturation (`PoolTimeout`), our own mistakes, and
    what the request's own body raises are ignored. A probe costs one round trip before it and one after it, all else
    none. A probe lasts until its body has ended: endless streams want a client of their own.
    """

    def __init__(
        self,
        breakers: Breaker | Breakers,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        key: Callable[[httpx.Request], str] = host_and_port,
        policy: Policy | None = None,
        failing: Container[int] = FAILING,
    ) -> None:
        """Guard a transport, which is closed with this one.

        Args:
            breakers: one breaker for everything, or `Breakers`, of which each key gets one.
            transport: an `httpx.AsyncHTTPTransport()` if None; it takes the limits and certificates, not the client.
            key: turns a request into any text; different texts get different breakers (see `name_of`).
            policy: of the breakers made for keys; the default policy if None.
            failing: statuses that count as failures; 429 and 500 to 599 by default.
        """
        if not isinstance(breakers, Breaker | Breakers):
            raise ValueError(f"breakers must be a Breaker or Breakers, not {breakers!r}")
        if isinstance(breakers, Breaker) and (policy is not None or key is not host_and_port):
            raise ValueError(f"key and policy are for Breakers, and {breakers!r} is one breaker with its own policy")
        self._breakers = breakers
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._key = key
        self._policy = policy
        self._failing = failing

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request if the circuit admits it."""
        breaker = self._breakers
        if isinstance(breaker, Breakers):
            breaker = breaker.get(name_of(self._key(request)), self._policy)
        call = await breaker.admit()
        upload = None
        if not isinstance(request.stream, httpx.ByteStream):  # which cannot raise
            request.stream = upload = _Upload(request.stream)
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            await _raised(call, error, ours=upload is not None and error is upload.error)
            raise
        if response.status_code in self._failing:
            asked = retry_after(response) if response.status_code in _SPEAKS_FOR_ALL else 0.0
            call.end(Outcome.FAILURE, str(response.status_code), asked)
        elif _is_complete(request, response):
            call.returned(response)
        if response.is_closed:  # the transport beneath has read it already
            await _settled(call)
        else:
            response.stream = _Watched(response, call)
        return response

    async def aclose(self) -> None:
        """Close the transport beneath; breakers stay."""
        await self._transport.aclose()


class _Upload(httpx.AsyncByteStream):
    """A request's body that remembers what it raised: that is not the dependency's doing, whatever it is."""

    def __init__(self, stream: object) -> None:
        self.error: Exception | None = None
        self._stream = cast("httpx.AsyncByteStream", stream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:
            self.error = error
            raise


class _Watched(httpx.AsyncByteStream):
    """A body that says how it ended."""

    def __init__(self, response: httpx.Response, call: Call) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._response = response
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except BaseException as error:
            await _raised(self._call, error)
            raise
        if not self._call.done:
            self._call.returned(self._response)
        await _settled(self._call)

    async def aclose(self) -> None:
        self._call.end(Outcome.CANCELLED)  # only the first end counts
        await self._stream.aclose()


def _is_complete(request: httpx.Request, response: httpx.Response) -> bool:
    """Whether no body is to come: a caller need not read what is not there."""
    if response.is_closed or request.method in ("HEAD", "CONNECT"):
        return True
    return response.status_code in (101, 204, 304) or response.headers.get("content-length") == "0"


async def _raised(call: Call, error: BaseException, *, ours: bool = False) -> None:
    if not isinstance(error, Exception):
        call.raised(error)  # the caller leaves, and waits for nothing
        return
    if isinstance(error, _THEIRS) and not isinstance(error, _OURS) and not ours:
        call.raised(error)
    else:
        call.end(Outcome.IGNORED)
    await _settled(call)


async def _settled(call: Call) -> None:
    if call.probe:
        await call.settled()


def retry_after(response: httpx.Response) -> float:
    """Return the seconds for which a response asks to be left alone, at most 86,400; 0 if it does not say.

    A date is measured against the response's own `Date` (RFC 9110, 10.2.3): no clock of ours matters.
    """
    asked = response.headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        return min(_LONGEST, float(asked))
    try:
        until, sent = (parsedate_to_datetime(date).replace(tzinfo=UTC) for date in (asked, response.headers["date"]))
    except (KeyError, ValueError, TypeError, OverflowError):
        return 0.0
    return min(_LONGEST, max(0.0, (until - sent).total_seconds()))


def name_of(key: str) -> str:
    """Return the breaker's name for a key: the key, if it is legal and without `__`, else a likeness with its hash.

    `api.example` stays; `[::1]:8080` becomes `___1__8080__` and 32 hexadecimal digits.
    """
    if _PLAIN.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{re.sub('[^A-Za-z0-9.-]', '_', key)[:100]}__{digest}"
