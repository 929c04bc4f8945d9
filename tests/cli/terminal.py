"""A real terminal: a pseudo-terminal, a program in it, and the screen that a person would see."""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pyte

_LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
OTHER_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """What is on the screen of a terminal of some size."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        """Open one; nothing runs in it."""
        self.outer, self.inner = os.openpty()
        os.set_blocking(self.outer, False)
        self.written = b""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._size(columns, lines)

    def close(self) -> None:
        """Close it."""
        for end in (self.outer, self.inner):
            with contextlib.suppress(OSError):
                os.close(end)

    def resize(self, columns: int, lines: int) -> None:
        """Drag its corner."""
        self.screen.resize(lines, columns)
        self._size(columns, lines)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.outer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def look(self) -> str:
        """Return what is on the screen now."""
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self.outer, 65_536):
                self.written += chunk
                self._stream.feed(chunk)
        return "\n".join(self.screen.display)

    def shows(self, *words: str) -> Callable[[], bool]:
        """Return whether all these words are on the screen, when asked."""
        return lambda: all(word in self.look() for word in words)

    def style(self, word: str) -> tuple[str, bool]:
        """Return colour and boldness of a word on the screen."""
        for number, line in enumerate(self.screen.display):
            if (at := line.find(word)) >= 0:
                cell = self.screen.buffer[number][at]
                return cell.fg, cell.bold
        raise AssertionError(f"{word!r} is not on the screen")


@contextlib.contextmanager
def program(terminal: Terminal, *words: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `commontrip` in the terminal, as its foreground program."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-c", _LAUNCH, sys.executable, "-m", "commontrip.cli", *map(str, words)]
    running = subprocess.Popen(
        command,
        stdin=terminal.inner,
        stdout=terminal.inner,
        stderr=terminal.inner,
        start_new_session=True,
        env=inherited | {"TERM": "xterm-256color"} | environment,
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(10)


def settings(terminal: Terminal) -> list[object]:
    """Return the terminal's modes: echo, line by line, signals."""
    return termios.tcgetattr(terminal.inner)[:4]
