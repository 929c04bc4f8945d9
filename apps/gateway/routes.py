"""Which addresses a path leads to, and in which order they are tried."""

import re
from collections.abc import Iterable, Mapping
from time import monotonic
from urllib.parse import unquote_to_bytes

import httpx

from apps.shared.problems import Problem

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


class Address:
    """One place where a service may be."""

    def __init__(self, text: str) -> None:
        self.url = httpx.URL(text)
        self.host = self.url.netloc
        self.refused_until = 0.0

    def refuse(self, seconds: float) -> None:
        """Note that nobody is there, or nobody answers: it is tried last for so many seconds."""
        self.refused_until = monotonic() + seconds


class Route:
    """A prefix and its addresses, taken in turn."""

    def __init__(self, prefix: str, addresses: Iterable[str]) -> None:
        self.prefix = prefix
        self._addresses = [Address(text) for text in addresses]
        self._turn = 0

    def matches(self, path: str) -> bool:
        """Whether a decoded path lies under the prefix."""
        return self.prefix in ("/", path) or path.startswith(self.prefix + "/")

    def order(self) -> list[Address]:
        """Return all addresses, the one whose turn it is first, those that have lately refused last."""
        self._turn = (self._turn + 1) % len(self._addresses)
        turned = self._addresses[self._turn :] + self._addresses[: self._turn]
        now = monotonic()
        return sorted(turned, key=lambda address: max(0.0, address.refused_until - now))


class Table:
    """All routes; the longest prefix wins."""

    def __init__(self, routes: Mapping[str, Iterable[str]]) -> None:
        by_length = sorted(routes, key=len, reverse=True)
        self._routes = [Route(prefix, routes[prefix]) for prefix in by_length]

    def find(self, raw_path: bytes) -> Route:
        """Return the route for a path as it came; a `Problem` if there is none, or the path is a trick.

        Matched is the decoded path, as whoever serves it will decode it. Dot segments, in whatever spelling, are
        refused and not resolved: a path shall not lead elsewhere than it says.
        """
        path = unquote_to_bytes(raw_path).decode(errors="replace")
        if _BAD_ESCAPE.search(raw_path) or "\ufffd" in path:
            raise Problem(400, "the path is not percent-encoded UTF-8")
        if _CONTROL.search(path) or {".", ".."}.intersection(path.split("/")):
            raise Problem(400, "the path has control characters, backslashes or dot segments")
        for route in self._routes:
            if route.matches(path):
                return route
        raise Problem(404, "no route leads from here")
