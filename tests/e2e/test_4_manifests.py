"""The files of k8s/ on the cluster: the API server takes them, and the faults do what they say."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.e2e.kubernetes import Done, Namespace, Object, until
from tests.e2e.release import ROOT, Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]
_MADE_FOR = re.compile(r"(namespace: )(?:commontrip|observability)\b")


def moved(path: str, namespace: Namespace) -> list[Object]:
    """Return a file's objects, for another namespace."""
    text = _MADE_FOR.sub(rf"\g<1>{namespace.name}", (ROOT / "k8s" / path).read_text())
    return [each for each in yaml.safe_load_all(text) if each and each["kind"] not in ("Namespace", "Kustomization")]


def pods(objects: list[Object]) -> list[Object]:
    """Return a pod for each Deployment, as it would make it."""
    made = [(each["metadata"]["name"], each["spec"]["template"]) for each in objects if each["kind"] == "Deployment"]
    return [
        {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}
        for name, template in made
    ]


def test_admitted(release: Release, seen: Seen) -> None:
    """The API server would take every object of k8s/ and every pod of these, under `restricted`, without a warning."""
    namespace = release.namespace
    paths = sorted(str(path.relative_to(ROOT / "k8s")) for path in (ROOT / "k8s").rglob("*.yaml"))
    objects = [each for path in paths for each in moved(path, namespace)]
    every = [*objects, *pods(objects)]
    for each in every:
        if each["kind"] == "Pod":
            each["spec"]["serviceAccountName"] = "default"  # the files' own are not there: nothing is made
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": every})
    done = namespace.kubectl("apply", "--dry-run=server", "-f", "-", stdin=listed)
    seen(f"{len(paths)} files: {len(objects)} objects and their pods would be admitted, {len(done.warnings)} warnings")
    assert not done.warnings


@contextmanager
def fault(release: Release, name: str) -> Iterator[None]:
    """Apply a fault as its file says, and delete it in the end."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": moved(f"faults/{name}.yaml", release.namespace)})
    release.namespace.kubectl("apply", "-f", "-", stdin=text)
    try:
        yield
    finally:
        release.namespace.kubectl("delete", "-f", "-", stdin=text)


@pytest.fixture(scope="module")
def rights(installed: tuple[Release, Done]) -> None:
    """Let the faults' pods scale."""
    namespace = installed[0].namespace
    namespace.apply(*moved("faults/rights.yaml", namespace))


def replicas(release: Release, component: str) -> int:
    """Return how many there shall be."""
    found: int = release.namespace.get("deployment", f"{release.name}-{component}")["spec"]["replicas"]
    return found


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize(("name", "component"), [("auth-down", "auth"), ("redis-gone", "redis")])
def test_gone(release: Release, seen: Seen, name: str, component: str) -> None:
    """Something is gone while the fault is there, clients get answers, and as many come back as there were."""
    before = replicas(release, component)
    with release.caller.load(release.user) as load:
        with fault(release, name):
            gone = until(f"{component} to be gone", lambda: replicas(release, component) == 0, 20)
            release.settle(component)
            if component == "auth":
                release.await_agreement("OPEN")
            else:
                release.await_loneliness()
        assert replicas(release, component) == before  # it was deleted, and so its pod has ended
        back = until(f"{component} to be back", lambda: len(release.pods(component)) == before, 30)
        closed = release.await_reunion()
    seen(f"{component} gone after {gone:.1f} s, back {back:.1f} s after the end, closed {closed:.1f} s later; {load}")
    assert load.failures == []


def test_slow(release: Release, seen: Seen) -> None:
    """The service auth is slow while the fault is there, and as it was when it is deleted."""
    with fault(release, "slow-auth"):
        until(
            "all to know of it", lambda: all("slow" in str(one) for one in release.each("auth", "/faults").values()), 20
        )
        [answer] = release.caller.get(release.user)
    until("the fault to be over", lambda: set(map(str, release.each("auth", "/faults").values())) == {"None"}, 5)
    seen(f"a request took {answer.seconds:.1f} s while auth was slow")
    assert answer.status == 200
    assert answer.seconds >= 3
