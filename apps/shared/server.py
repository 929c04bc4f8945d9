"""The process: from settings to a server, and on SIGTERM back again in order.

not ready → wait → no new connections → finish what runs → close clients → flush telemetry → metrics port closed
"""

import asyncio
import errno
import gc
import logging
import resource
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

import uvicorn
from starlette.applications import Starlette

from apps.shared import logs
from apps.shared.connection import Connection
from apps.shared.health import Health
from apps.shared.metrics import Metrics
from apps.shared.settings import ServiceSettings, SettingsError, load, misspelt, variables

logger = logging.getLogger("apps.server")
S = TypeVar("S", bound=ServiceSettings)
_ENOUGH = 65_536  # descriptors
_AT_ONCE = 128  # connections accepted before one of them is looked at, and can be refused
_WAITING = 2_048  # connections that wait to be accepted


class Server(uvicorn.Server):
    """uvicorn, but it drains before it closes its port. A second signal ends the wait, a third the rest."""

    def __init__(self, config: uvicorn.Config, health: Health, drain_seconds: float) -> None:
        super().__init__(config)
        self._health = health
        self._drain_seconds = drain_seconds
        self._signals = 0
        self._leave_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(_WAITING)
            logger.info("listening on %s:%d", *one.getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """Note the signal. It is not kept for uvicorn to raise again: to end in order is exit status 0."""
        self._signals += 1
        self.should_exit = self._signals > 1
        self.force_exit = self._signals > 2  # noqa: PLR2004 - the third

    async def on_tick(self, counter: int) -> bool:
        """Drain once a signal has come, and leave when the wait is over."""
        if self._signals and not self._leave_at:
            logger.info("draining for %g s", self._drain_seconds)
            self._health.drain()
            self._leave_at = time.monotonic() + self._drain_seconds
        if self._leave_at and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


def main(service: str, kind: type[S], create_app: Callable[[S], Starlette]) -> NoReturn:
    """Run a service until it is told to end: status 0; 2 if its settings do not do, 1 if a port is taken."""
    try:
        settings = load(kind)
        logs.configure(service, settings.log_level)
        for line in misspelt(kind):
            logger.warning("%s", line)
        app = create_app(settings)
        gc.freeze()  # what is here now stays: to look through it again and again stops every request for 30 ms
    except SettingsError as error:
        sys.exit(_complain(service, *error.problems, status=2))
    names = variables(kind)
    _take_descriptors()
    try:
        listener = _bind(settings.listen_host, settings.port, names["port"])
        _serve_metrics(app.state.metrics, settings, names["metrics_port"])
    except OSError as error:
        sys.exit(_complain(service, str(error), status=1))
    server = Server(_config(app, settings), app.state.health, settings.drain_seconds)
    try:
        asyncio.run(server.serve([listener]))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Somebody has begun to listen since we took the port: two may take one at the same time.
        sys.exit(_complain(service, _taken(names["port"], settings.listen_host, settings.port, error), status=1))
    finally:
        app.state.metrics.close()
    logger.info("ended")
    sys.exit(0)


def _config(app: Starlette, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_AT_ONCE,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
    )


def _take_descriptors() -> None:
    """Open as many connections as we may, and not only the 1024 that are usual for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _ENOUGH if unlimited else min(hard, _ENOUGH)), hard))


def _bind(host: str, port: int, variable: str) -> socket.socket:
    """Take the port; connections are refused until the service has started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it an answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(_taken(variable, host, port, error)) from error
    return listener


def _serve_metrics(metrics: Metrics, settings: ServiceSettings, variable: str) -> None:
    try:
        metrics.serve(settings.listen_host, settings.metrics_port)
    except OSError as error:
        raise OSError(_taken(variable, settings.listen_host, settings.metrics_port, error)) from error


def _taken(variable: str, host: str, port: int, error: OSError) -> str:
    return f"{variable}: cannot listen on {host}:{port}: {error.strerror}"


def _complain(service: str, *lines: str, status: int) -> int:
    for line in lines:
        sys.stderr.write(f"{service}: {line}\n")
    return status
