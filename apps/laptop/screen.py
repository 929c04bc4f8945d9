"""What is shown: plain lines, in colour on a terminal, and what the children log only if it is worth a look."""

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

Part = str | tuple[str, str]
"""A text, or a text and its style."""

_STYLES = {"OPEN": "bold red", "CLOSED": "bold green", "HALF_OPEN": "bold yellow", "warning": "yellow", "error": "red"}
_TOGETHER = 0.3
"""Seconds for which a line is kept, to be shown once if several children say the same."""


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)

    def show(self, *parts: Part) -> None:
        """Show a line of these."""
        self._console.print(Text.assemble(*parts), soft_wrap=True)


def complain(text: str) -> None:
    """Say what is wrong, on standard error."""
    sys.stderr.write(f"laptop: {text}\n")


def clock(at: float) -> str:
    """Return a Unix time as the time of day here."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]


def state(name: str) -> tuple[str, str]:
    """Return a state's name with its colour."""
    return name, _STYLES.get(name, "")


class Log:
    """What the children write: warnings and errors as one readable line; the same of several children once."""

    def __init__(self, screen: Screen, *, verbose: bool = False) -> None:
        self._screen = screen
        self._verbose = verbose
        self._closed = False
        self._waiting: dict[tuple[str, str], dict[str, None]] = {}

    def tell(self, name: str, line: str) -> None:
        """Take a line."""
        entry = _parse(line)
        level = str(entry.get("level", ""))
        if self._verbose:
            self._screen.show(f"{name}  {line}")
        elif not self._closed and level not in ("debug", "info") and "epoch" not in entry:
            # What has an epoch is a transition, which is shown by its event.
            text = "\n".join(str(entry[key]) for key in ("message", "exception") if key in entry)
            self._wait(name, level, text)

    def close(self, about: str = "") -> None:
        """Show what is kept; if a child has ended, only what is `about` it: what others say now comes of that."""
        for (level, text), names in list(self._waiting.items()):
            if not about or about in names:
                self._show(level, text)
        self._waiting.clear()
        self._closed = bool(about)

    def _wait(self, name: str, level: str, text: str) -> None:
        if (level, text) not in self._waiting:
            self._waiting[level, text] = {}
            asyncio.get_running_loop().call_later(_TOGETHER, self._show, level, text)
        self._waiting[level, text][name] = None

    def _show(self, level: str, text: str) -> None:
        names = self._waiting.pop((level, text), None)
        if names:
            label = [(f"{level}  ", _STYLES.get(level, ""))] if level else []
            self._screen.show(f"{clock(time.time())}  {', '.join(names)}  ", *label, text)


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"message": line}
