"""What the services export, over the real collector; and that a collector that is away or silent harms nobody."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.resources import Resource

from apps.shared.tracing import Tracing
from tests.support.servers import Server, free_port
from tests.support.system import Service, System
from tests.support.waiting import eventually, wait_until
from tests.telemetry.collector import Collector
from tests.telemetry.fleet import Auth, Fleet
from tests.telemetry.sink import Sink, Span

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


def system(directory: Path, **otel: str) -> System:
    """Prepare gateway, one profile and auth."""
    return System(directory, 1, **otel)


@pytest.fixture
def traced(tmp_path: Path, collector: Collector) -> Iterator[System]:
    """The system, exporting all."""
    otel = {"otel_exporter_otlp_endpoint": collector.url, "otel_bsp_schedule_delay": "50"}
    with system(tmp_path, **otel) as started:
        yield started


def by_service(spans: list[Span], kind: int) -> dict[str, Span]:
    """Return the only span of that kind that each service made."""
    found = {span.service: span for span in spans if span.kind == kind}
    assert len(found) == sum(span.kind == kind for span in spans)
    return found


def distinct(spans: list[Span]) -> int:
    """Count spans by their ids."""
    return len({span.span_id for span in spans})


def requests_logged(service: Service, path: str) -> list[dict[str, Any]]:
    """Return its log lines of requests to a path."""
    return [line for line in service.logged() if line.get("path") == path]


def test_a_requests_trace_runs_through_all_services(traced: System, sink: Sink) -> None:
    """Gateway, profile and auth make one server span each, in the caller's trace, each a child of who asked."""
    answer = httpx.get(f"{traced.gateway.url}/profile/ada", headers=PARENT)
    wait_until(lambda: sum(span.trace_id == TRACE for span in sink.spans()) >= 5, "the spans")
    spans = [span for span in sink.spans() if span.trace_id == TRACE]
    servers, clients = by_service(spans, Sink.SERVER), by_service(spans, Sink.CLIENT)
    assert answer.json()["auth"]["source"] == "live"
    assert len(spans) == 5  # and no spans of sending, receiving or Redis
    assert {name: span.name for name, span in servers.items()} == {
        "gateway": "GET /profile",
        "profile": "GET /profile/{user_id}",
        "auth": "GET /users/{user_id}",
    }
    assert servers["gateway"].parent == CALLER
    assert clients["gateway"].parent == servers["gateway"].span_id
    assert servers["profile"].parent == clients["gateway"].span_id
    assert clients["profile"].parent == servers["profile"].span_id
    assert servers["auth"].parent == clients["profile"].span_id
    for span in servers.values():
        assert span.attributes["http.request.method"] == "GET"
        assert span.attributes["http.response.status_code"] == 200
        assert span.attributes["http.route"] == span.name.removeprefix("GET ")
        assert "http.method" not in span.attributes
    for service in (traced.gateway, traced.profiles[0]):
        wait_until(lambda service=service: bool(requests_logged(service, "/profile/ada")), "the line")  # type: ignore[misc]
        (line,) = requests_logged(service, "/profile/ada")
        assert (line["trace_id"], line["span_id"]) == (TRACE, servers[service.kind].span_id)


def test_health_and_streams_make_no_span_and_unknown_paths_one_name(traced: System, sink: Sink) -> None:
    """What is asked every second says nothing, a span of an hour neither; a stranger's path is no name."""
    for path in ("/healthz", "/readyz"):
        assert httpx.get(traced.profiles[0].url + path).status_code == 200
    with httpx.stream(
        "GET", f"{traced.gateway.url}/breakers/events", headers={**PARENT, "accept": "text/event-stream"}
    ) as stream:
        assert stream.status_code == 200
        next(stream.iter_lines())
    assert httpx.request("PROPFIND", f"{traced.profiles[0].url}/secret/word", headers=PARENT).status_code == 404
    wait_until(lambda: any(span.kind == Sink.SERVER for span in sink.spans()), "a span")
    servers = [span for span in sink.spans() if span.kind == Sink.SERVER]
    assert [span.name for span in servers] == ["HTTP"]
    # The gateway's question for the stream ends with the answer's head, and is still in the caller's trace.
    assert {span.trace_id for span in sink.spans()} == {TRACE}


@pytest.mark.parametrize("exports", [False, True])
async def test_the_context_is_passed_on_once(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, *, exports: bool
) -> None:
    """With spans or without, auth is asked with one traceparent, in the caller's trace, and logs carry its id."""
    otel = {"otel_exporter_otlp_endpoint": sink.url} if exports else {}
    async with Fleet(server, prefix, auth, tmp_path, 1, **otel) as fleet:
        await fleet.ask(fleet.all[0], **PARENT)
        names = Counter(name for name, _ in auth.headers[-1])
        (value,) = [value for name, value in auth.headers[-1] if name == "traceparent"]
        logged = partial(requests_logged, fleet.all[0], "/profile/ada")
        await eventually(lambda: len(logged()) == 2, "the second request's line")
        line = logged()[-1]
    assert names.most_common(1)[0][1] == 1
    assert value.split("-")[1] == TRACE
    assert (value.split("-")[2] == CALLER) is not exports
    assert line["trace_id"] == TRACE


@pytest.mark.parametrize("exports", [False, True])
def test_the_gateway_passes_one_context_on(tmp_path: Path, *, exports: bool) -> None:
    """However often a caller sent it, whoever stands behind gets one traceparent, and the rest as it came."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        route = f"/=http://127.0.0.1:{upstream.getsockname()[1]}"
        otel = {"otel_exporter_otlp_endpoint": f"http://127.0.0.1:{free_port()}"} if exports else {}
        with (
            Service("gateway", tmp_path, {"gateway_routes": route, "drain_seconds": 0, **otel}) as gateway,
            socket.create_connection(("127.0.0.1", gateway.port)) as client,
        ):
            header = f"traceparent: {PARENT['traceparent']}\r\n"
            client.sendall(f"GET / HTTP/1.1\r\nhost: here\r\n{header}baggage: a=b\r\nx-own: 1\r\n\r\n".encode())
            asked = upstream.accept()[0]
            head = asked.recv(65_536).decode().lower()
            asked.close()
    (value,) = [line for line in head.split("\r\n") if line.startswith("traceparent: ")]
    assert value.split("-")[1] == TRACE
    assert (CALLER in value) is not exports
    assert head.count("baggage: a=b") == head.count("x-own: 1") == 1


# -- what is set wrong, or switched off


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "spans leave by http/protobuf only, not by 'grpc'"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "spans leave by http/protobuf only, not by 'http/json'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "an address is http://host:port, not 'collector:4318'"),
    ],
)
def test_what_cannot_work_is_said_at_start(tmp_path: Path, variable: str, value: str, line: str) -> None:
    """One line names the variable, and the exit status is 2."""
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", variable: value}
    with contextlib.closing(Service("auth", tmp_path, otel).launch()) as service:
        wait_until(lambda: service.exit_status is not None, "the end")
        assert (service.exit_status, service.text()) == (2, f"auth: {variable}: {line}\n")


@pytest.mark.parametrize(
    "off", [{}, {"otel_sdk_disabled": "true"}, {"otel_traces_exporter": "none"}], ids=["unset", "disabled", "none"]
)
async def test_nothing_is_exported_that_is_not_wanted(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, off: dict[str, str]
) -> None:
    """Without an endpoint, or switched off, nobody is asked, not even at the end."""
    otel = {"otel_exporter_otlp_endpoint": sink.url if off else "", "otel_bsp_schedule_delay": "10", **off}
    async with Fleet(server, prefix, auth, tmp_path, 1, **otel) as fleet:
        await fleet.trip(fleet.all[0])
        assert await asyncio.to_thread(fleet.all[0].stop) == 0
    assert sink.asked == 0


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", ""])
def test_switched_off_nothing_stands_in_a_requests_way(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """No middleware, no transport around the plain one, and no exporter of transitions."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318" if variable else "")
    monkeypatch.setenv(variable or "OTEL_SDK_DISABLED", "none" if variable.endswith("EXPORTER") else "true")
    tracing, plain = Tracing(Resource({})), httpx.MockTransport(lambda _: httpx.Response(200))
    assert (tracing.middleware, tracing.exporter(), tracing.transport(plain)) == ([], None, plain)


# -- the end of a process, and a collector that is away


async def test_who_ends_in_order_leaves_no_span_behind(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, collector: Collector
) -> None:
    """A trip, and SIGTERM at once: the spans of the trip and of its request are there, and nobody sends them again."""
    otel = {"otel_exporter_otlp_endpoint": collector.url, "otel_bsp_schedule_delay": "60000"}
    async with Fleet(server, prefix, auth, tmp_path, 2, **otel) as fleet:
        await fleet.trip(fleet.all[0])
        assert await asyncio.to_thread(fleet.all[0].stop) == 0
        (span,) = sink.transitions()
        assert span.links["cause"] in {one.span_id for one in sink.spans() if one.kind == Sink.SERVER}
        told = server.cli("ZRANGE", f"{prefix}:auth:v1:told", 0, -1)
        assert told == [str((await fleet.history())[0].epoch)]


async def test_a_collector_that_is_away_for_ten_seconds_loses_nothing(
    server: Server, prefix: str, auth: Auth, tmp_path: Path
) -> None:
    """Nor does a main queue that is full: every transition and observation arrives once the collector is back."""
    port = free_port()
    otel = {
        "otel_exporter_otlp_endpoint": f"http://127.0.0.1:{port}",
        "otel_exporter_otlp_timeout": "2",
        "otel_traces_sampler": "always_on",
        "otel_bsp_max_queue_size": "1",
        "otel_bsp_max_export_batch_size": "1",
    }
    async with Fleet(server, prefix, auth, tmp_path, 2, **otel) as fleet:
        away_since = time.monotonic()
        await fleet.trip(fleet.all[0])
        await fleet.recover(fleet.all[1])
        for _ in range(20):
            await fleet.ask(fleet.all[0])
        await asyncio.sleep(away_since + 10 - time.monotonic())
        with Sink(port) as sink:
            await eventually(lambda: distinct(sink.transitions()) == 3, "the spans of transitions", 20)
            await eventually(lambda: distinct(sink.observed()) == 3, "the spans of who learned of them", 20)
        said = [line for line in fleet.all[0].logged() if line["logger"].startswith("opentelemetry")]
    assert said
    assert len(said) <= 3  # the first failure, that it is tried again, and that a batch is given back


async def test_a_silent_collector_delays_no_request_and_no_end(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink
) -> None:
    """Requests are answered as ever while exports hang, and the process ends within five seconds more."""
    sink.silent = True
    otel = {"otel_exporter_otlp_traces_endpoint": f"{sink.url}/v1/traces", "otel_bsp_schedule_delay": "20"}
    async with Fleet(server, prefix, auth, tmp_path, 2, **otel) as fleet:
        await fleet.trip(fleet.all[0])
        await fleet.recover(fleet.all[1])
        await eventually(lambda: sink.asked >= 2, "exports to hang")
        asked = sink.asked
        for _ in range(100):
            assert (await fleet.ask(fleet.all[0]))["source"] == "live"
        took = sorted(line["milliseconds"] for line in requests_logged(fleet.all[0], "/profile/ada")[-100:])
        started = time.monotonic()
        assert await asyncio.to_thread(fleet.all[0].stop) == 0
        ended = time.monotonic() - started
    print(f"ended within {ended:.1f} s; requests: median {took[50]} ms, p98 {took[98]} ms; {asked}")
    assert took[50] < 100
    assert took[98] < 500
    assert ended < 5
