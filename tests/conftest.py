"""Real servers for every test that asks for one; none is skipped for want of a server."""

import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import hypothesis
import pytest

from tests.support import binary
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.sentinel import SentinelPair
from tests.support.servers import Server

_SERVERS = {"server", "fresh_server", "cluster", "sentinel"}

hypothesis.settings.register_profile("commontrip", deadline=None, print_blob=True)
hypothesis.settings.load_profile("commontrip")


def pytest_configure() -> None:
    """End a terminated run as Ctrl-C does, so that it leaves no server behind.

    Under nohup, or behind an `&`, signals are ignored, and whatever a test starts would inherit that.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_report_header() -> str:
    """Say which server the tests run on, or end the run with the name of what is missing."""
    try:
        found = binary.find()
    except binary.NoServerError as error:
        pytest.exit(str(error), returncode=1)
    return f"server: {binary.describe(found)} ({found})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that depend on a server, to run them again on others."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS.intersection(item.fixturenames):
            item.add_marker("server")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that all tests share: kept apart by `prefix`, never killed, frozen or flushed."""
    with Server() as shared:
        yield shared


@pytest.fixture
def redis_url(server: Server) -> str:
    """The address of the shared server."""
    return server.url


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A proxy in front of the shared server."""
    async with Proxy(server) as started:
        yield started


@pytest.fixture
def fresh_server() -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own, to kill and to freeze; takes further options."""
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(*options))
        return started[-1].start()

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three masters that all tests share."""
    with Cluster() as shared:
        yield shared


@pytest.fixture
def sentinel() -> Iterator[SentinelPair]:
    """A master and a replica of the test's own, under a sentinel."""
    with SentinelPair() as pair:
        yield pair
