"""The real collector, where there is one, between the services and the test."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.telemetry import collector as collectors
from tests.telemetry.collector import Collector
from tests.telemetry.fleet import Auth
from tests.telemetry.sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Where the spans end."""
    with Sink() as started:
        yield started


@pytest.fixture
def collector(tmp_path: Path, sink: Sink) -> Iterator[Collector]:
    """A collector that passes on to the sink."""
    if not collectors.find():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"no OpenTelemetry Collector: there is no otelcol on the PATH, and {collectors.VARIABLE} is not set")
    with Collector(tmp_path, sink.url) as started:
        yield started


@pytest.fixture
async def auth() -> AsyncIterator[Auth]:
    """Whom profile asks."""
    async with Auth() as started:
        yield started
