"""Metrics: OpenTelemetry's, told as Prometheus text on a port of their own."""

from contextlib import ExitStack

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

SCOPE = "commontrip.apps"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One process's metrics. A scrape is answered by a thread of its own, so that a busy event loop can be seen too."""

    def __init__(self, service: str) -> None:
        self.resource = _resource(service)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        reader = PrometheusMetricReader(registry=self.registry, scope_info_enabled=False)
        self.provider = MeterProvider([reader], self.resource, shutdown_on_exit=False)
        self._requests = self.provider.get_meter(SCOPE).create_histogram(
            "http.server.request.duration",
            "s",
            "From a request's arrival to the end of its answer",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._closing = ExitStack()
        self._closing.callback(self.provider.shutdown)

    def request(self, seconds: float, method: str, route: str, status: int) -> None:
        """Measure one request; `route` is a pattern, never a path, so that the series are few."""
        attributes: dict[str, str | int] = {"http.request.method": method, "http.route": route}
        attributes["http.response.status_code"] = status
        self._requests.record(seconds, attributes)

    def serve(self, host: str, port: int) -> None:
        """Begin to answer scrapes; raises `OSError` if the port is taken."""
        server, thread = start_http_server(port, host, self.registry)
        for last in (thread.join, server.server_close, server.shutdown):
            self._closing.callback(last)

    def close(self) -> None:
        """Stop; after everything else, so that the last figures can still be fetched."""
        self._closing.close()


def _resource(service: str) -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before our own name."""
    said = Resource.create()
    named = not str(said.attributes[SERVICE_NAME]).startswith("unknown_service")
    return said if named else said.merge(Resource({SERVICE_NAME: service}))
