"""One circuit for all replicas, as they come, go and are killed."""

import time
from collections.abc import Callable

import pytest

from tests.e2e.kubernetes import until
from tests.e2e.release import LEASE, PROBES, Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]
MERCY = 3.0
"""Seconds that the kubelet leaves to a pod that is deleted by force."""
LATE = 6.0
"""Seconds that a probe takes: longer than that, and shorter than the lease, so that one tells which was waited for."""


def test_auth_gone(release: Release, seen: Seen) -> None:
    """Without auth the circuit opens once; with one replica of it back a crowd lets through the policy's probes."""
    before = [made["epoch"] for made in release.transitions()]
    with release.caller.load(release.user) as load:
        release.scale("auth", 0)
        opened = release.await_agreement("OPEN")
        news = [made for made in release.transitions() if made["epoch"] not in before]
    trips = [made for made in news if made["previous_state"] == "CLOSED" and made["state"] == "OPEN"]
    release.scale("auth", 1)
    with release.fault(kind="slow", latency_seconds=1):
        until("the cooldown to be over", lambda: not any(each["remaining"] for each in release.fleet().values()), 5)
        sources: list[str] = []
        while not release.agreed("CLOSED"):
            answers = release.caller.get(*[release.user] * 40)
            sources += [answer.body["auth"]["source"] for answer in answers]
            assert {answer.status for answer in answers} == {200}
        asked = release.asked()
    seen(
        f"opened by {len(trips)} transition {opened:.1f} s after the last pod of auth was out of service; {load}; "
        f"closed by {asked.total()} probes of {len(asked)} replicas, in a crowd of {len(sources)}"
    )
    assert len(trips) == 1
    assert load.failures == []
    assert asked.total() == PROBES
    assert sources.count("live") == PROBES
    release.scale("auth", 2)


def test_killed_with_a_probe(release: Release, seen: Seen) -> None:
    """A replica is killed while it holds a probe: its place is free again after the lease, and the circuit closes.

    Auth stays slow until then: the kubelet takes a moment to kill, in which an answer could still be counted.
    """
    release.open_circuit(3)
    asked = release.asked()
    with release.caller.load(release.user), release.fault(kind="slow", latency_seconds=LATE):
        until("a probe to be at auth", lambda: release.asked() - asked, 10)
        victim = next(iter(release.asked() - asked))
        release.namespace.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        killed = time.monotonic()
        until("the probe's place to be lost", lambda: victim not in release.fleet(), 5)
        closed = release.await_agreement("CLOSED", within=30) and time.monotonic() - killed
    seen(f"{victim} killed with a probe under way; all closed {closed:.1f} s later (a lease is {LEASE:g} s)")
    assert LEASE < closed < MERCY + LEASE + LATE + 4
    release.scale("profile", 3)


def test_new_replicas_get_their_share(release: Release, seen: Seen) -> None:
    """Replicas that come while others are busy are asked too, though all connections were made before they came."""
    with release.caller.load(release.user, callers=12) as load:
        answered = release.caller.answered()
        until("connections to be in use", lambda: release.caller.answered() > answered + 100, 20)
        before = release.asked()
        began = time.monotonic()
        release.scale("profile", 5)
        pods = {pod["metadata"]["name"] for pod in release.pods("profile")}
        until("all to be asked", lambda: pods <= set(+(release.asked() - before)), 120)
    took = time.monotonic() - began
    seen(f"5 replicas of profile, and each asked auth {took:.1f} s after they were ordered; {load}")
    assert load.failures == []
    release.scale("profile", 3)


def test_ready_without_redis_and_auth(release: Release, seen: Seen) -> None:
    """Without Redis and without auth every pod stays ready, and is not restarted; clients get answers."""
    names = {pod["metadata"]["name"] for service in ("gateway", "profile") for pod in release.pods(service)}
    with release.caller.load(release.user) as load:
        release.namespace.kubectl("scale", f"deployment/{release.name}-redis", "--replicas=0")
        release.scale("auth", 0)
        release.settle("auth")
        release.await_loneliness()
        release.namespace.kubectl("scale", f"deployment/{release.name}-auth", "--replicas=1")
        young = until("a new pod of auth to be ready", lambda: release.pods("auth"), 30)
        # Longer than the readiness probe needs to fail: two questions, 2 s apart, of 2 s each.
        answered = release.caller.answered()
        until("further answers", lambda: release.caller.answered() > answered + 6 * 50, 20)
        after = {pod["metadata"]["name"] for service in ("gateway", "profile") for pod in release.pods(service)}
    seen(f"all pods stayed ready; a new pod of auth was ready without Redis after {young:.1f} s; {load}")
    assert after == names
    assert load.failures == []
    release.scale("redis", 1)
    release.scale("auth", 2)
    release.await_reunion()
    assert release.restarts() == {}
