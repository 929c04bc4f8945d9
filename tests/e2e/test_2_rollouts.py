"""Changes under load: nobody is refused for them."""

from collections.abc import Callable

import pytest

from tests.e2e.kubernetes import until
from tests.e2e.release import SERVICES, Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]


def trips(release: Release) -> set[str]:
    """Return the thresholds of all replicas, as they tell them."""
    return {known["trip"] for known in release.fleet().values()}


def memory(release: Release) -> tuple[object, set[str]]:
    """Return the password that was generated, and the pods of Redis, by what no other pod will ever be called."""
    secret = release.namespace.get("secret", f"{release.name}-redis")
    return secret["data"], {pod["metadata"]["uid"] for pod in release.pods("redis")}


def test_upgrade_and_rollback(release: Release, seen: Seen) -> None:
    """Under steady load new thresholds are rolled out and back: no request fails, and afterwards they hold."""
    before, kept = trips(release), memory(release)
    for what in ("upgrade", "rollback"):
        with release.caller.load(release.user) as load:
            if what == "upgrade":
                done = release.upgrade({"profile": {"breaker": {"minimumCalls": 12, "failureRate": 0.4}}})
            else:
                done = release.namespace.helm("rollback", release.name, "--wait", "--timeout", "90s")
            release.settle("profile")
        after = trips(release)
        seen(f"helm {what} --wait: {done.seconds:.1f} s, then {', '.join(after)}; {load}")
        assert load.failures == []
        assert set(load.sources) == {"live"}
        assert not done.warnings
        assert (after == before) == (what == "rollback")
        assert memory(release) == kept, "Redis has another password, or another pod: what it held is gone"
        assert after == before or {("0.4" in trip, "12" in trip) for trip in after} == {(True, True)}


def test_restart(release: Release, seen: Seen) -> None:
    """Every pod is replaced under load: no request fails, auth can be asked all the time, a stream ends in order."""
    stream = release.url("profile", "/breakers/events")
    release.caller.open_stream(stream)
    with release.caller.load(release.user) as load:
        release.restart(*SERVICES)
    end = release.caller.stream_end()
    seen(f"all replaced; {load}; an event stream ended {end}, and could be opened again")
    release.caller.open_stream(stream)
    assert load.failures == []
    assert set(load.sources) == {"live"}
    assert end == "in order"


def measured(release: Release) -> bool:
    """Whether the cluster has a metrics-server, without which the autoscaler does nothing."""
    return release.namespace.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1", check=False).status == 0


@pytest.mark.timeout(250)
def test_autoscaler(release: Release, seen: Seen) -> None:
    """The autoscaler adds replicas under load and removes them after it, and no upgrade fights with it for the number.

    The number is set first, as the chart's README says: Helm gives up the field, and another has to hold it.
    """
    release.scale("profile", 3)
    aims = {"minReplicas": 2, "maxReplicas": 4, "targetCpuPercent": 15, "scaleDownStabilizationSeconds": 0}
    on = {"profile": {"autoscaling": {"enabled": True, **aims}}}
    told = "no metrics-server: kubectl in the autoscaler's place"
    with release.caller.load(release.user) as load:
        release.upgrade(on)
        if measured(release):
            up = until("the autoscaler to add a replica", lambda: len(release.pods("profile")) == 4, 90)
        else:
            release.scale("profile", 4)
        done = release.upgrade(on, "--set", "profile.breaker.minimumCalls=11")
        replicas = len(release.pods("profile"))
        release.settle("profile")
    if measured(release):
        down = until("the autoscaler to remove replicas", lambda: len(release.pods("profile")) == 2, 90)
        told = f"from 3 to 4 replicas after {up:.0f} s of load, to 2 another {down:.0f} s after it"
    version = release.namespace.helm("version", "--short").out.strip()
    seen(f"{told}; helm {version} upgraded it in {done.seconds:.1f} s and left {replicas} replicas; {load}")
    assert load.failures == []
    assert replicas == 4
    release.namespace.helm("rollback", release.name, "1", "--wait", "--timeout", "90s")
    until("the old size", lambda: len(release.pods("profile")) == 3, 40)
