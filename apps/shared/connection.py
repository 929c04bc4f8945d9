"""The connection beneath a request: what only the server knows, and tests in process do without."""

import asyncio
import json
import resource
from http import HTTPStatus

from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MOST_HEAD = 65_536
"""Bytes of a request's head after which the server reads no further; the app refuses well before that."""
SLOWEST_HEAD = 10.0
"""Seconds in which a request's head must be complete once it has begun."""
SLOWEST_END = 10.0
"""Seconds that a client has to take what was written before its connection was closed."""
MOST_PIPELINED = 16
"""Requests that may wait behind one that runs; a client that sends more is hung up on."""
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


def _most_connections() -> int:
    """Return half of the descriptors that this process may have: a request may need one for itself, and one to ask."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def _of(scope: Scope) -> "Connection | None":
    found: Connection | None = scope.get("extensions", {}).get(_KEY)
    return found


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on what a client may send beside bodies, and refusals that are problems."""

    since = 0.0
    _idle_until = 0.0
    _in_head = False
    _unfinished = 0  # bytes since a head, a piece of a body or a request was complete
    _head_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None  # the last one, `cycle`, may still wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait no longer for a first request than for a next one."""
        super().connection_made(transport)
        if len(self.connections) > _most_connections():
            self._make_room()
        self.since = self.loop.time()
        self._now_idle()
        self._await_next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers; tell whoever runs for this connection."""
        self._head_done()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._tell_gone()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of an unfinished head, and of what is neither head nor body."""
        self._unfinished += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unfinished > MOST_HEAD:
            self._refuse(431, "the request's head is too large")
        elif self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(SLOWEST_HEAD, self._refuse, 408, "the request's head took too long")
        elif not self._in_head and self._is_idle():
            self._await_next()  # the rest of a body that was refused, perhaps without end

    def on_message_begin(self) -> None:
        """Offer the connection to the app."""
        super().on_message_begin()
        self._in_head = True
        self.scope["extensions"] = {_KEY: self}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Drop trailers: merged into the head they would pass by every check of it, and pile up without end."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests wait")
        self._in_head, self._unfinished = False, 0
        self._head_done()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass it on."""
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the next request may come."""
        self._unfinished = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Turn to the next request, and read no further ones while some wait."""
        super().on_response_complete()
        self._now_idle()
        if self.transport.is_closing():
            self._close()
        elif self.pipeline:
            self.flow.pause_reading()

    def abort(self) -> None:
        """Send what was written and end; what runs for this connection finds its client gone."""
        self._tell_gone()
        self._close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection."""
        self._close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: any client could fill the log, and is answered as if it had not asked."""

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _may_go(self) -> bool:
        return self._is_idle() and not self.transport.is_closing()

    def _make_room(self) -> None:
        """Hang up on one that has no request under way; on this one if all have."""
        others = (one for one in self.connections if isinstance(one, Connection) and one is not self)
        next(filter(Connection._may_go, others), self).transport.abort()

    def _now_idle(self) -> None:
        self._idle_until = self.loop.time() + self.timeout_keep_alive

    def _await_next(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(self._idle_until, self.timeout_keep_alive_handler)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _tell_gone(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _close(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(SLOWEST_END, self.transport.abort)

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        begun = self._running is not None and self._running.response_started and not self._running.response_complete
        if not begun:  # else the client would take it for a part of that answer
            title = HTTPStatus(status).phrase
            body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
            head = f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self._close()
