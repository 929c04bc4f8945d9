"""The end of a release."""

from collections.abc import Callable

import pytest

from tests.e2e.kubernetes import until
from tests.e2e.release import SERVICES, Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]


def left_of(release: Release) -> set[str]:
    """Return all objects of a release, of every kind that there is in a namespace."""
    kinds = release.namespace.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").out.split()
    # Helm's own records have other labels; events and metrics are not the release's.
    kinds = [kind for kind in kinds if not kind.startswith("events") and "metrics.k8s.io" not in kind]
    found = release.namespace.kubectl("get", ",".join(kinds), "-l", release.selector(), "-o", "name").out.split()
    records = release.namespace.kubectl("get", "secrets", "-l", f"owner=helm,name={release.name}", "-o", "name").out
    return {*found, *records.split()}


def test_uninstalled(release: Release, neighbours: tuple[Release, Release], seen: Seen) -> None:
    """`helm uninstall` leaves nothing of a release, the generated password included, and the neighbours go on."""
    first = neighbours[0]
    release.close_caller()
    before = left_of(release)
    assert {f"secret/{release.name}-redis", *(f"deployment.apps/{release.name}-{one}" for one in SERVICES)} <= before
    with first.caller.load(first.user) as load:
        done = release.uninstall()
        gone = until("nothing to be left", lambda: not left_of(release), 60)
    seen(f"helm uninstall: {len(before)} objects gone after {done.seconds + gone:.1f} s; beside it {load}")
    assert done.status == 0
    assert load.failures == []
    assert first.agreed("CLOSED")
