"""An open circuit stays open: for replicas that come, and without Redis.

It is kept open by auth's Retry-After, which the replicas remember: so these tests come after the others.
"""

from collections.abc import Callable

import pytest

from tests.e2e.kubernetes import until
from tests.e2e.release import Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]


def test_five_replicas(release: Release, seen: Seen) -> None:
    """Replicas that start while the circuit is open see it as the others do, and never ask auth."""
    before = set(release.fleet())
    release.open_circuit(60)
    asked = release.asked()
    seconds = release.scale("profile", 5)
    pods = release.pods("profile")
    young = [pod for pod in pods if pod["metadata"]["name"] not in before]
    for _ in range(3):
        release.each("profile", "/profile/ada", pods)
    fleet = release.fleet(pods)
    left = [known["remaining"] for known in fleet.values()]
    refused = {name: known["calls"]["rejected"] for name, known in fleet.items()}
    seen(
        f"5 replicas after {seconds:.1f} s, all {fleet[young[0]['metadata']['name']]['state']} in one epoch, "
        f"{min(left):.2f} to {max(left):.2f} s left; calls of the new ones that were refused: "
        f"{[refused[pod['metadata']['name']] for pod in young]}, that came to auth: 0"
    )
    assert len(fleet) == 5
    assert release.agreed("OPEN", pods)
    assert max(left) - min(left) < 0.5  # they are asked at one moment, but answer one after the other
    assert all(refused[pod["metadata"]["name"]] == 3 for pod in young)
    assert release.asked() == asked
    release.close_circuit()
    release.scale("profile", 3)
    release.settle("profile")


def test_redis_pod_deleted(release: Release, seen: Seen) -> None:
    """Redis is lost while the circuit is open: no request fails, nobody closes it, and all agree when it is back."""
    release.open_circuit(60)
    asked, before = release.asked(), release.fleet()
    [old] = (pod["metadata"]["name"] for pod in release.pods("redis"))
    profile = release.pods("profile")
    states: set[str] = set()
    alone: set[str] = set()

    def together() -> bool:
        release.each("profile", "/profile/ada", profile)
        fleet = release.fleet(profile)
        states.update(known["state"] for known in fleet.values())
        lone = release.alone(profile)
        alone.update(lone)
        back = old not in [pod["metadata"]["name"] for pod in release.pods("redis")] and release.pods("redis")
        return bool(back) and not lone and release.agreed("OPEN", profile)

    with release.caller.load(release.user) as load:
        release.namespace.kubectl("delete", "pod", old, "--wait=false")
        seconds = until("Redis to be back and all to agree", together, 40)
    after = release.fleet(profile)
    first, last = (max(known["transition"]["until"] for known in fleet.values()) for fleet in (before, after))
    seen(
        f"{len(alone)} of 3 replicas were alone then, each {', '.join(states)}; {seconds:.1f} s after the deletion "
        f"Redis was back and all agreed on the deadline, within {abs(first - last):.3f} s; {load}"
    )
    assert alone
    assert states == {"OPEN"}
    assert load.failures == []
    assert release.asked() == asked
    assert abs(first - last) < 1
    assert release.redis("GET", "cb:auth:state") == "OPEN"
    release.close_circuit()
