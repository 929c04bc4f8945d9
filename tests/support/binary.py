"""Which real server the tests run on: `python -m tests.support.binary` says it."""

import os
import sys
from pathlib import Path

from apps.laptop import redis_server
from apps.laptop.redis_server import NoServerError, describe

__all__ = ["VARIABLE", "NoServerError", "describe", "find"]

VARIABLE = "COMMONTRIP_TEST_SERVER"


def find() -> Path:
    """Return the server program to test with: the one that `make up` takes, unless `COMMONTRIP_TEST_SERVER` chooses.

    What it may say is in `redis_server.find`. Raises `NoServerError`.
    """
    return redis_server.find(os.environ.get(VARIABLE, ""))


if __name__ == "__main__":
    try:
        server = find()
    except NoServerError as error:
        sys.exit(str(error))
    print(f"==> testing with {describe(server)} ({server})")
