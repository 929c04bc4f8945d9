"""Releases beside each other."""

from collections.abc import Callable

import pytest

from tests.e2e.release import Release

pytestmark = pytest.mark.timeout(150)
Seen = Callable[[str], None]


def test_three_circuits(release: Release, neighbours: tuple[Release, Release], seen: Seen) -> None:
    """Each of three releases opens and closes a circuit of its own, and the others hear nothing of it."""
    every = (release, *neighbours)
    for one in every:
        with one.caller.load(one.user):
            one.await_agreement("CLOSED")
    for one in every:
        others = [other for other in every if other is not one]
        before = [other.transitions()[0]["epoch"] for other in others]
        with one.caller.load(one.user):
            with one.fault(kind="error"):
                one.await_agreement("OPEN")
                states = [{known["state"] for known in other.fleet().values()} for other in others]
            closed = one.await_agreement("CLOSED")
        seen(f"{one.name} in {one.namespace.name} opened, closed {closed:.1f} s after auth was well; the others never")
        assert states == [{"CLOSED"}] * 2
        assert [other.transitions()[0]["epoch"] for other in others] == before
