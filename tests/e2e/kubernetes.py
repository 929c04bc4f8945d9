"""kubectl and helm, as a user has them."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What it warned of; the API server's warnings come through kubectl and helm."""
        return [line for line in self.err.splitlines() if "warn" in line.lower()]


def run(*words: str, stdin: str = "", within: float = 100.0, check: bool = True) -> Done:
    """Run a program to its end; what it complains of is in the failure."""
    began = time.monotonic()
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=within, check=False)
    assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@dataclass(frozen=True)
class Namespace:
    """A namespace of the tests' own, where Pod Security `restricted` is enforced."""

    context: str
    name: str

    def create(self) -> None:
        """Make it."""
        metadata = {"name": self.name, "labels": _RESTRICTED}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def delete(self) -> None:
        """Remove it with all that is in it, and wait for nothing."""
        self.kubectl("delete", "namespace", self.name, "--ignore-not-found", "--wait=false")

    def describe(self) -> str:
        """Return its pods, its last events and what was logged last, health and requests aside."""
        pods = self.kubectl("get", "pods", "-o", "wide", check=False).out
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).out.splitlines()[-20:]
        every = ("logs", "--selector", "app.kubernetes.io/part-of=commontrip", "--prefix", "--tail=200")
        logs = self.kubectl(*every, "--max-log-requests=50", check=False).out.splitlines()
        logs = [line[:600] for line in logs if '"apps.requests"' not in line]
        return "\n".join([pods, *events, "", *logs[-60:]])

    def words(self, *words: str) -> tuple[str, ...]:
        """Return a command of kubectl for this namespace."""
        return ("kubectl", "--context", self.context, "--namespace", self.name, *words)

    def kubectl(self, *words: str, stdin: str = "", within: float = 100.0, check: bool = True) -> Done:
        """Run it."""
        return run(*self.words(*words), stdin=stdin, within=within, check=check)

    def helm(self, *words: str, values: Object | None = None, within: float = 150.0, check: bool = True) -> Done:
        """Run helm, with values if there are any."""
        place = ("--kube-context", self.context, "--namespace", self.name)
        given = () if values is None else ("--values", "-")
        return run("helm", *words, *place, *given, stdin=json.dumps(values or {}), within=within, check=check)

    def apply(self, *objects: Object) -> Done:
        """Apply objects."""
        return self.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def get(self, kind: str, name: str = "", *, selector: str = "") -> Any:
        """Return an object, or the list of all that the selector finds."""
        which = [name] if name else ["--selector", selector]
        found = json.loads(self.kubectl("get", kind, *which, "-o", "json").out)
        return found if name else found["items"]


def until(what: str, condition: Callable[[], Any], within: float) -> float:
    """Return the seconds until the condition holds; fail with what it said last, and `what`, after `within` s."""
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < within, f"not within {within:g} s: {what}; {found}"
        time.sleep(0.02)
    return time.monotonic() - began
