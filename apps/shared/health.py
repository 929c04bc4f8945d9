"""Health: the loop answers (`/healthz`); started and not draining (`/readyz`). Never about Redis or a neighbour."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apps.shared.problems import problem

PATHS = frozenset({"/healthz", "/readyz"})


class Health:
    """Whether this process wants requests, and who must know when it no longer does."""

    def __init__(self) -> None:
        self.started = False
        self.draining = False
        self._leaving: list[Callable[[], object]] = []
        self.routes = [Route("/healthz", _healthy), Route("/readyz", self._ready)]

    def on_drain(self, call: Callable[[], object]) -> None:
        """Call this when draining begins; event streams end by it."""
        self._leaving.append(call)

    def drain(self) -> None:
        """Be ready no longer."""
        if not self.draining:
            self.draining = True
            for call in self._leaving:
                call()

    async def _ready(self, _: Request) -> Response:
        if self.started and not self.draining:
            return JSONResponse({"status": "ready"})
        return problem(503, "draining" if self.draining else "starting", {"retry-after": "1"})


async def _healthy(_: Request) -> Response:
    return JSONResponse({"status": "alive"})
