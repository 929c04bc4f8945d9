"""The connection beneath a request: what only the server knows, and tests in process do without."""

import asyncio
import json
from http import HTTPStatus

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MOST_HEAD = 65_536
"""Bytes of a request's head after which the server reads no further; the app refuses well before that."""
SLOWEST_HEAD = 10.0
"""Seconds in which a request's head must be complete once it has begun."""
_KEY = "commontrip.connection"


class BrokenOffError(Exception):
    """An answer was broken off where there is no connection to break: what a test in process sees."""


def abort(scope: Scope) -> None:
    """Break the client's connection, for an answer that can be neither given nor finished."""
    connection = _of(scope)
    if connection is None:
        raise BrokenOffError
    connection.abort()


def age(scope: Scope) -> float:
    """Return the seconds since the client connected, 0 if that is not known."""
    connection = _of(scope)
    return connection.loop.time() - connection.since if connection else 0.0


def _of(scope: Scope) -> "Connection | None":
    found: Connection | None = scope.get("extensions", {}).get(_KEY)
    return found


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on a request's head, and refusals that are problems."""

    since = 0.0
    _head = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait no longer for a first request than for a next one."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._await_next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._head_done()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of an unfinished head."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._head += len(data) if self._head else 0
        if self._head > MOST_HEAD:
            self._refuse(431, "the request's head is too large")
        elif self._head and self._head_timer is None:
            self._head_timer = self.loop.call_later(SLOWEST_HEAD, self._refuse, 408, "the request's head took too long")
        elif not self._head and self._is_idle():
            self._await_next()  # the rest of a body that was refused, perhaps without end

    def on_message_begin(self) -> None:
        """Offer the connection to the app."""
        super().on_message_begin()
        self._head = 1
        self.scope["extensions"] = {_KEY: self}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._head = 0
        self._head_done()
        super().on_headers_complete()

    def abort(self) -> None:
        """Send what was written and end; what runs for this connection finds its client gone."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: any client could fill the log, and is answered as if it had not asked."""

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _await_next(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        title = HTTPStatus(status).phrase
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
        head = f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
