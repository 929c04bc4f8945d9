"""`make demo`: it passes, and it can fail."""

from pathlib import Path

from tests.apps.laptop import Laptop


def test_every_claim_holds(tmp_path: Path) -> None:
    """The story is told to its end within a minute, with a tick for each of its nine claims."""
    demo = Laptop(tmp_path, "demo")
    assert demo.ends() == 0, (demo.out, demo.complaints)
    demo.close()
    assert len([line for line in demo.out if "✓" in line]) == 9
    assert demo.out[-1].endswith("every claim holds\n")
    assert demo.complaints == []


def test_without_a_breaker_it_fails(tmp_path: Path) -> None:
    """A claim that does not hold is one line, and status 1: without the breaker nothing trips."""
    demo = Laptop(tmp_path, "demo", PROFILE_BREAKER_ENABLED="false")
    assert demo.ends() == 1
    demo.close()
    [line] = demo.complaints
    assert line.startswith(
        "laptop: a claim does not hold: one replica trips, and all are open; but after 12 s it is CLOSED"
    )
