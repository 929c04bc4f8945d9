"""RESP, the protocol of Redis: enough to ask a server something and to cut a stream into frames."""

import socket

# What a frame holds: str for a status, bytes for a string, a list for every aggregate.
Value = str | bytes | int | None | Exception | list["Value"]
# What a person would read: the same with text for bytes.
Reply = str | int | None | list["Reply"]


class IncompleteError(Exception):
    """The frame goes on in bytes that have not arrived yet."""


class ReplyError(Exception):
    """The server answered with an error."""


class Push(list[Value]):
    """A message that answers no command (RESP3)."""


def parse(data: bytes | bytearray, start: int = 0) -> tuple[Value, int]:
    """Read the frame that begins at `start`; return what it holds and where it ends.

    Raises `IncompleteError` when it has not arrived whole. RESP2 and RESP3.
    """
    end = data.find(b"\r\n", start)
    if end < 0:
        raise IncompleteError
    kind, line, rest = chr(data[start]), data[start + 1 : end].decode(), end + 2
    match kind:
        case "+" | "," | "#" | "(":
            return line, rest
        case "-":
            return ReplyError(line), rest
        case ":":
            return int(line), rest
        case "_":
            return None, rest
        case "$" | "=" | "!":
            return _parse_string(data, rest, int(line))
        case "*" | "~" | ">" | "%":
            count = int(line) * (2 if kind == "%" else 1)
            return _parse_items(data, rest, count, Push() if kind == ">" else [])
    raise ValueError(f"no RESP frame begins with {kind!r}")


def _parse_string(data: bytes | bytearray, start: int, length: int) -> tuple[Value, int]:
    if length < 0:
        return None, start
    end = start + length
    if len(data) < end + 2:
        raise IncompleteError
    return bytes(data[start:end]), end + 2


def _parse_items(data: bytes | bytearray, start: int, count: int, items: list[Value]) -> tuple[Value, int]:
    if count < 0:
        return None, start
    for _ in range(count):
        item, start = parse(data, start)
        items.append(item)
    return items, start


def encode(*words: str | bytes | float) -> bytes:
    """Write a command as a frame."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Connection:
    """A connection for one command after another, blocking; not shared between threads."""

    def __init__(self, port: int, *, timeout: float = 5.0) -> None:
        """Connect to the server on this loopback port; `timeout` (s) holds for each answer too."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._buffer = bytearray()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, *words: str | bytes | float) -> Reply:
        """Send a command and return its answer; raise `ReplyError` if that is an error."""
        self._socket.sendall(encode(*words))
        while True:
            try:
                value, end = parse(self._buffer)
            except IncompleteError:
                received = self._socket.recv(65536)
                if not received:
                    raise ConnectionResetError("the server closed the connection") from None
                self._buffer += received
            else:
                del self._buffer[:end]
                return _readable(value)


def _readable(value: Value) -> Reply:
    if isinstance(value, Exception):
        raise value
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
