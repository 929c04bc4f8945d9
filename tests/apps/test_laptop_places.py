"""Who runs where: from the environment, from `.env`, or by default."""

import dataclasses
import os
import platform
from pathlib import Path

import pytest

from apps.laptop import demo, environment, system
from apps.laptop.children import Children, TroubleError
from apps.laptop.places import TOKEN, Places, find_places
from apps.shared.settings import SettingsError


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free ports in the environment."""
    for name, value in demo.settings().items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("free")
def test_replicas_take_ports_in_a_row() -> None:
    """Three replicas have names, ports and metrics ports of their own, upward from the setting."""
    places = find_places()
    first = int(os.environ["PROFILE_PORT"])
    assert [place.port for place in places.profiles] == [first, first + 1, first + 2]
    assert [place.env["PROFILE_METRICS_PORT"] for place in places.profiles] == [
        str(int(os.environ["PROFILE_METRICS_PORT"]) + number) for number in range(3)
    ]
    assert [place.env["PROFILE_REPLICA"] for place in places.profiles] == ["profile-1", "profile-2", "profile-3"]


@pytest.mark.usefixtures("free")
def test_addresses_follow_the_ports_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway finds the replicas and they find auth; an address that was set is left alone."""
    places = find_places()
    assert places.gateway.env["GATEWAY_ROUTES"] == "/profile=" + ",".join(place.url for place in places.profiles)
    assert {place.env["PROFILE_AUTH_URL"] for place in places.profiles} == {places.auth.url}
    monkeypatch.setenv("GATEWAY_ROUTES", "/=http://example.test:80")
    monkeypatch.setenv("PROFILE_AUTH_URL", "http://example.test:81")
    places = find_places()
    assert "GATEWAY_ROUTES" not in places.gateway.env
    assert "PROFILE_AUTH_URL" not in places.profiles[0].env


@pytest.mark.usefixtures("free")
def test_no_known_token_where_others_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed token is for this machine only; one that is set always holds."""
    assert find_places().override_token == TOKEN
    monkeypatch.setenv("LISTEN_HOST", "0.0.0.0")  # noqa: S104 - nothing is started
    assert find_places().override_token == ""
    assert find_places().gateway.url.startswith("http://127.0.0.1:")
    monkeypatch.setenv("PROFILE_OVERRIDE_TOKEN", TOKEN * 2)
    assert find_places().override_token == TOKEN * 2


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    "url", ["redis://example.test", "rediss://localhost", "unix:///a.sock", "redis+cluster://localhost"]
)
def test_a_redis_elsewhere_is_used(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Only a plain Redis on loopback is started; every other one is taken as it is."""
    monkeypatch.setenv("REDIS_URL", url)
    assert find_places().redis is None


@pytest.mark.usefixtures("free")
def test_two_settings_with_one_port_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that two processes would take is one line with both settings."""
    monkeypatch.setenv("AUTH_PORT", str(int(os.environ["PROFILE_PORT"]) + 2))
    with pytest.raises(SettingsError, match=r"^AUTH_PORT and PROFILE_PORT \+ 2 are both \d+$"):
        find_places()


@pytest.mark.usefixtures("free")
def test_ports_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that would have no port are refused by the setting's name."""
    monkeypatch.setenv("PROFILE_METRICS_PORT", "65534")
    with pytest.raises(SettingsError, match=r"^PROFILE_METRICS_PORT: 3 replicas take 65534"):
        find_places()


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the environment has stands; the file adds the rest."""
    monkeypatch.setenv("GATEWAY_PORT", "1")
    monkeypatch.setenv("AUTH_PORT", "0")  # so that it is put back
    monkeypatch.delenv("AUTH_PORT")
    file = tmp_path / ".env"
    file.write_text("GATEWAY_PORT=2\nAUTH_PORT=3\n")
    environment.take(file)
    assert (os.environ["GATEWAY_PORT"], os.environ["AUTH_PORT"]) == ("1", "3")


@pytest.fixture
def places(free: None) -> Places:  # noqa: ARG001 - it sets the environment
    """The system, laid out."""
    return find_places()


@pytest.mark.parametrize("name", ["auth", "gateway"])
async def test_a_service_that_ends_at_its_start_is_one_line(name: str, places: Places) -> None:
    """Whoever ends before all are ready is named, with its last words."""
    places = dataclasses.replace(places, profiles=())  # which only take their time
    [place] = [place for place in places.services if place.name == name]
    place.env["LOG_LEVEL"] = "loud"
    with pytest.raises(TroubleError, match=rf"^{name} ended with status 2: {name}: LOG_LEVEL: [^\n]*$"):
        async with Children(lambda *_: None, patience=1) as children:
            await children.during(system.start(children, places))


async def test_no_redis_to_start_is_one_line(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    """Where no Redis program can be found, the line says what to install, and which setting does without."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(platform, "machine", lambda: "none")
    with pytest.raises(
        TroubleError, match=r"install the package redis-server, or let REDIS_URL name a Redis elsewhere$"
    ):
        async with Children(lambda *_: None, patience=1) as children:
            await children.during(system.start(children, places))
