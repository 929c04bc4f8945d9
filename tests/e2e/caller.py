"""A pod that asks: what it meets is what any client in the cluster meets, and no port-forward gets in between."""

import itertools
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.kubernetes import Namespace

_SCRIPT = Path(__file__).with_name("calling.py").read_text()
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    status: int
    body: Any
    seconds: float


@dataclass
class Load:
    """What came of steady requests, once they are over."""

    sources: dict[str, int] = field(default_factory=dict)
    """How many answers had their auth info from where."""
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    """Seconds that the slowest request took."""

    @property
    def answers(self) -> int:
        """How many requests were answered with 200."""
        return sum(self.sources.values())

    def __str__(self) -> str:
        """For the list of what was seen."""
        said = ", ".join(f"{count} {source}" for source, count in sorted(self.sources.items()))
        return f"{self.answers} answers ({said}), {len(self.failures)} failed, the slowest took {self.longest:.2f} s"


class Caller:
    """The pod, and the line to it. Close it."""

    def __init__(self, namespace: Namespace, name: str, image: str, labels: Mapping[str, str]) -> None:
        self._namespace, self._name = namespace, name
        self._numbers = itertools.count()
        namespace.apply(_pod(name, image, labels))
        namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        self._line = subprocess.Popen(
            namespace.words("exec", "-i", name, "--", "python", "-u", "-c", _SCRIPT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Remove it."""
        self._line.kill()
        self._line.communicate()
        self._namespace.kubectl("delete", "pod", self._name, "--grace-period=0", "--force", "--ignore-not-found")

    def get(self, *urls: str) -> list[Answer]:
        """Ask at the same time, each on a new connection."""
        return self._ask([{"url": url} for url in urls])

    def send(self, method: str, url: str, body: Any = None) -> Answer:
        """Send one request."""
        [answer] = self._ask([{"url": url, "method": method, "body": body}])
        return answer

    @contextmanager
    def load(self, url: str, callers: int = 6, pause: float = 0.1) -> Iterator[Load]:
        """Ask without end while this is entered, at most `callers / pause` times a second."""
        self._order("load", url=url, callers=callers, pause=pause)
        found = Load()
        try:
            yield found
        finally:
            told = self._order("stop")
            found.sources, found.failures, found.longest = told["sources"], told["failures"], told["longest"]

    def answered(self) -> int:
        """Return how many requests of the load were answered by now, well or badly."""
        told = self._order("told")
        return int(sum(told["sources"].values()) + len(told["failures"]))

    def open_stream(self, url: str) -> None:
        """Open an event stream, and wait for its first event."""
        self._order("stream", url=url)

    def stream_end(self) -> str:
        """Wait until that stream has ended; "in order" if it was not broken off."""
        return str(self._order("ended"))

    def _ask(self, requests: list[dict[str, Any]]) -> list[Answer]:
        return [Answer(**found) for found in self._order("ask", requests=requests)]

    def _order(self, what: str, **words: Any) -> Any:
        number = next(self._numbers)
        assert self._line.stdin
        assert self._line.stdout
        self._line.stdin.write(json.dumps({"number": number, "what": what, "words": words}) + "\n")
        self._line.stdin.flush()
        for line in self._line.stdout:
            told = json.loads(line)
            if told["number"] == number:
                found = told["found"]
                assert not (isinstance(found, dict) and "error" in found), f"{what}: {found}"
                return found
        raise AssertionError(f"the line to the pod {self._name} is broken: see what kubectl says above")


def _pod(name: str, image: str, labels: Mapping[str, str]) -> dict[str, Any]:
    container = {
        "name": "caller",
        "image": image,
        "command": ["sleep", "3600"],
        "securityContext": _RESTRICTED,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": security,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": dict(labels)}, "spec": spec}
