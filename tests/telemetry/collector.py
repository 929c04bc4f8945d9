"""The real OpenTelemetry Collector, as a process: OTLP/HTTP in, OTLP/HTTP out to a `Sink`."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

from tests.support.servers import Started, free_port
from tests.support.waiting import wait_until

VARIABLE = "COMMONTRIP_OTELCOL"
"""Where the program is, if it is not `otelcol` on the PATH."""
_CONFIG = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{otlp_http: {{endpoint: "{sink}", compression: none, sending_queue: {{enabled: false}}}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlp_http]}}}}
"""


def find() -> str:
    """Return the program, '' if there is none."""
    return os.environ.get(VARIABLE) or shutil.which("otelcol") or ""


class Collector(Started):
    """One collector, which passes on what it takes to the sink at `sink` before it answers."""

    def __init__(self, directory: Path, sink: str) -> None:
        """Prepare it on a port of its own."""
        self.port = free_port()
        self._log = directory / "otelcol.log"
        self._config = directory / "otelcol.yaml"
        self._config.write_text(_CONFIG.format(port=self.port, sink=sink))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and return when it takes spans."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([find(), "--config", str(self._config)], stdout=log, stderr=log)
        wait_until(self._listens, "the collector to listen", 20)
        return self

    def close(self) -> None:
        """Kill it."""
        if self._process:
            self._process.kill()
            self._process.wait(10)

    def _listens(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(f"the collector ended at its start:\n{self._log.read_text()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
