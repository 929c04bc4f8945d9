"""What is at the end of the pipe: a place that takes OTLP/HTTP and keeps the spans."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers import Started, free_port


@dataclass(frozen=True)
class Span:
    """A span as it arrived; ids are hexadecimal, times nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    links: dict[str, str]
    """Span ids by the kind of link."""
    resource: dict[str, Any]

    @property
    def service(self) -> str:
        """Who sent it."""
        return str(self.resource["service.name"])


class Sink(Started):
    """Takes spans; `silent`, it takes connections and never answers."""

    SERVER, CLIENT = 2, 3
    """Kinds of spans."""

    def __init__(self, port: int = 0) -> None:
        """Prepare it on a port of its own, or on this one."""
        self.port = port or free_port()
        self.silent = False
        self.asked = 0
        """Requests that arrived, answered or not."""
        self._spans: list[Span] = []
        self._ending = threading.Event()

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Begin to listen."""
        self._server = _Quiet(("127.0.0.1", self.port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """End, also those that wait for an answer."""
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self, name: str = "") -> list[Span]:
        """Return what has arrived, of one name or of any."""
        return [span for span in list(self._spans) if name in ("", span.name)]

    def transitions(self) -> list[Span]:
        """Return the spans of transitions."""
        return self.spans("circuit_breaker.transition")

    def observed(self) -> list[Span]:
        """Return the spans that say who learned of one."""
        return self.spans("circuit_breaker.observed")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.asked += 1
                if sink.silent:
                    sink._ending.wait(60)
                    return
                sink._spans.extend(_parse(body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that were killed."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


def _parse(body: bytes) -> Iterator[Span]:
    for from_one in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _plain(from_one.resource.attributes)
        for scope in from_one.scope_spans:
            for span in scope.spans:
                links = {str(_plain(link.attributes).get("circuit_breaker.link")): link.span_id for link in span.links}
                yield Span(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    kind=span.kind,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    links={kind: span_id.hex() for kind, span_id in links.items()},
                    resource=resource,
                )


def _plain(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found
