"""A release as it is installed: ready, confined, quiet, and true to its word."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.caller import Caller
from tests.e2e.kubernetes import Done
from tests.e2e.release import CHART, SERVICES, TAG, Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]


def test_installed(installed: tuple[Release, Done], seen: Seen) -> None:
    """`helm install --wait` is ready within 60 s where `restricted` is enforced, and nobody warns of anything."""
    release, done = installed
    pods = [pod for component in (*SERVICES, "redis") for pod in release.pods(component)]
    seen(f"helm install --wait: {len(pods)} pods ready after {done.seconds:.1f} s, {len(done.warnings)} warnings")
    assert len(pods) == 2 + 3 + 2 + 1
    assert done.seconds <= 60
    assert not done.warnings


def test_confined(release: Release, seen: Seen) -> None:
    """No process is root or may become it, no root can be written to, no pod has a token for the API."""
    status = "grep -h -e ^CapEff -e ^NoNewPrivs /proc/1/status"
    look = f"id -u; {status}; touch /here 2>&1; ls /var/run/secrets/kubernetes.io 2>&1"
    users = set()
    for component in (*SERVICES, "redis"):
        name = release.pods(component)[0]["metadata"]["name"]
        told = release.namespace.kubectl("exec", name, "--", "sh", "-c", look, check=False).out
        user, *rest = told.splitlines()
        users.add(user)
        assert user != "0"
        assert [line.split()[1] for line in rest[:2]] == ["0000000000000000", "1"]
        assert "Read-only file system" in told
        assert "No such file or directory" in rest[-1]
    seen(f"users {', '.join(sorted(users))}; no capability, nothing to write to, no token")


def test_helm_test(release: Release, seen: Seen) -> None:
    """`helm test` passes: a request, and a breaker that opens and closes on all replicas."""
    done = release.namespace.helm("test", release.name, "--timeout", "90s")
    seen(f"helm test passed after {done.seconds:.1f} s")
    assert done.out.count("Succeeded") == 2, done.out
    assert not done.warnings
    release.await_agreement("CLOSED")


def test_metrics(release: Release, seen: Seen) -> None:
    """Prometheus, a pod like any other, can read every pod's metrics, and finds the breaker's among profile's."""
    scraper = Caller(release.namespace, "scraper", f"commontrip/profile:{TAG}", {})
    try:
        pods = [pod for component in SERVICES for pod in release.pods(component)]
        answers = scraper.get(*(f"http://{pod['status']['podIP']}:9090/metrics" for pod in pods))
    finally:
        scraper.close()
    assert {answer.status for answer in answers} == {200}
    told = [answer.body.count("circuit_breaker_state{") for answer in answers]
    seen(f"{len(answers)} pods told their metrics; those of profile {told[2]} states of the breaker each")
    assert [bool(count) for count in told] == [False] * 2 + [True] * 3 + [False] * 2


def evict(release: Release, pod: str) -> Done:
    """Ask for an eviction, as `kubectl drain` does."""
    place = f"/api/v1/namespaces/{release.namespace.name}/pods/{pod}/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    return release.namespace.kubectl("create", "--raw", place, "-f", "-", stdin=json.dumps(body), check=False)


def test_eviction(release: Release, seen: Seen) -> None:
    """One replica of profile may be evicted; a second one, before the first is replaced, may not."""
    first, second, _ = (pod["metadata"]["name"] for pod in release.pods("profile"))
    assert evict(release, first).status == 0
    refused = evict(release, second)
    seen(f"a second eviction: {refused.err.strip()}")
    assert refused.status != 0
    assert "disruption budget" in refused.err
    release.scale("profile", 3)


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": ({"profile": {"replica": 3}}, ("profile", "replica")),
    "negative threshold": ({"profile": {"breaker": {"failureRate": -1}}}, ("failureRate", "minimum")),
    "two Redis": ({"externalRedis": {"host": "elsewhere"}}, ("externalRedis", "redis.enabled")),
    "no Secret's name": (
        {"redis": {"enabled": False}, "externalRedis": {"urlKey": "url"}},
        ("externalRedis", "existingSecret"),
    ),
    "bad URL": ({"redis": {"enabled": False}, "externalRedis": {"url": "http://r:6379"}}, ("externalRedis", "url")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(release: Release, seen: Seen, wrong: str) -> None:
    """A wrong value stops `helm install` with a sentence that names it, and nothing is left."""
    values, words = WRONG[wrong]
    done = release.namespace.helm("install", "wrong", CHART, values=values, check=False)
    seen(f"{wrong}: {done.err.strip().splitlines()[-1]}")
    assert done.status != 0
    assert all(word in done.err for word in words), done.err
    assert not release.namespace.get("pods", selector="app.kubernetes.io/instance=wrong")
