"""The command line, against the server that all tests share."""

import pytest

from tests.cli.commands import Commands
from tests.support.servers import Server


@pytest.fixture
def commontrip(server: Server, prefix: str) -> Commands:
    """The command line, at a place that no other test has."""
    return Commands(server.url, prefix)
