"""Settings: told together when they are wrong, and each in `.env.template`."""

from typing import Any

import pytest

from apps.auth.settings import Settings as Auth
from apps.gateway.settings import Settings as Gateway
from apps.profile import people
from apps.profile.settings import Settings as Profile
from apps.shared.server import main
from apps.shared.settings import RedisSettings, SettingsError, load, misspelt, variables
from commontrip import AnyOf, ConsecutiveFailures, FailureRate, SlowCallRate
from tests.apps import env_template


def test_template_has_every_setting() -> None:
    """`.env.template` names every setting with its meaning, unit and default, and nothing else."""
    assert env_template.FILE.read_text() == env_template.render(), "run python -m tests.apps.env_template"


@pytest.mark.parametrize("kind", env_template.SERVICES.values(), ids=env_template.SERVICES)
def test_template_is_what_holds_without_it(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies the template as it is changes nothing."""
    plain = load(kind)
    for line in env_template.FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    assert load(kind) == plain


def test_no_two_ports_collide() -> None:
    """On a laptop every service, with three replicas of profile, has ports of its own."""
    gateway, profile, auth = Gateway(), Profile(), Auth()
    replicas = [port + i for port in (profile.port, profile.metrics_port) for i in range(3)]
    others = [port for settings in (gateway, auth) for port in (settings.port, settings.metrics_port)]
    assert len({*replicas, *others}) == 10


@pytest.mark.parametrize("kind", env_template.SERVICES.values(), ids=env_template.SERVICES)
def test_duration_says_seconds(kind: Any) -> None:
    """A setting whose description begins with seconds ends in _SECONDS, and the reverse."""
    for name, variable in variables(kind).items():
        timed = kind.model_fields[name].description.startswith("seconds")
        assert variable.endswith("_SECONDS") == timed, variable


def test_all_problems_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong variable has one line with its name, what is wrong, what was given, and what it is for."""
    wrong = {
        "PROFILE_PORT": "70000",
        "PROFILE_FALLBACK": "maybe",
        "PROFILE_FALLBACK_AGE_SECONDS": "-1",
        "PROFILE_BREAKER_COOLDOWN_SECONDS": "200",
        "PROFILE_BREAKER_PROBE_LIMIT_SECONDS": "1",
        "PROFILE_BREAKER_FAILURE_RATE": "0",
        "DRAIN_SECONDS": "soon",
        "LOG_LEVEL": "chatty",
        "REDIS_URL": "http://user:hunter2@redis",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(Profile)
    lines = {line.partition(":")[0]: line for line in caught.value.problems}
    wrong["PROFILE_BREAKER_COOLDOWN_MAXIMUM_SECONDS"] = wrong.pop("PROFILE_BREAKER_COOLDOWN_SECONDS")
    wrong["PROFILE_BREAKER_SLOW_CALL_RATE"] = wrong.pop("PROFILE_BREAKER_FAILURE_RATE")
    assert set(lines) == set(wrong)
    assert lines["PROFILE_PORT"].startswith("PROFILE_PORT: input should be less than or equal to 65535, not '70000' (")
    assert "must be at least PROFILE_BREAKER_COOLDOWN_SECONDS" in lines["PROFILE_BREAKER_COOLDOWN_MAXIMUM_SECONDS"]
    assert "hunter2" not in lines["REDIS_URL"]


@pytest.mark.parametrize(
    ("kind", "variable"),
    [(Profile, "PROFILE_AUTH_TOKEN"), (Profile, "PROFILE_OVERRIDE_TOKEN"), (Auth, "AUTH_TOKEN")],
)
@pytest.mark.parametrize("value", ["größer", "two words", "line\nbreak"])
def test_a_token_fits_a_header(kind: Any, variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that no header can carry is refused at start, and not shown."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load(kind)
    [line] = caught.value.problems
    assert line.startswith(f"{variable}: a token is of printable ASCII")
    assert value not in line


@pytest.mark.parametrize(
    "value",
    [
        "profile=http://a",
        "/profile",
        "/profile=",
        "/profile=a:1",
        "/p=http://a;/p=http://b",
        "/p=http://a/x",
        "/p=ftp://a",
        "/p=http://a:port",
        "/p=http://a:0",
        "/p=http://a:65536",
        "/p=http://a b",
        "/p=http://me:secret@a",
        "/p=http://a?x=1",
        "/p=http://a#x",
        "/p=http://10.0.0.256",
        "/p=http://[::::]",
        "/p=http://xn--a",
        ";",
    ],
)
def test_wrong_routes_are_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that cannot be is a line that names GATEWAY_ROUTES."""
    monkeypatch.setenv("GATEWAY_ROUTES", value)
    with pytest.raises(SettingsError, match="GATEWAY_ROUTES: "):
        load(Gateway)


@pytest.mark.parametrize("value", ["http://auth/?x=1", "http://auth/#x", "http://me:secret@auth/", "ftp://auth/"])
def test_a_wrong_address_of_auth_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would end up before the user's id, or be dropped in silence, is a line that names PROFILE_AUTH_URL."""
    monkeypatch.setenv("PROFILE_AUTH_URL", value)
    with pytest.raises(SettingsError, match="PROFILE_AUTH_URL: "):
        load(Profile)


def test_routes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several prefixes, each with several addresses."""
    monkeypatch.setenv("GATEWAY_ROUTES", "/profile=http://a:1,http://b:2/; /breakers=https://c")
    assert load(Gateway).routes == {"/profile": ("http://a:1", "http://b:2"), "/breakers": ("https://c",)}


def test_wrong_settings_end_with_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong settings are lines on standard error and exit status 2, and nothing was started."""
    monkeypatch.setenv("AUTH_PORT", "no")
    monkeypatch.setenv("AUTH_METRICS_PORT", "no")
    with pytest.raises(SystemExit) as ended:
        main("auth", Auth, pytest.fail)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [["auth", " AUTH_PORT"], ["auth", " AUTH_METRICS_PORT"]]


def test_unreadable_data_is_a_setting(tmp_path: Any) -> None:
    """A data file that is missing or malformed is told like a wrong setting, with its place."""
    with pytest.raises(SettingsError, match=r"PROFILE_PEOPLE_PATH: cannot read .*: No such file"):
        people.load(tmp_path / "none.json")
    (tmp_path / "people.json").write_text('{"ada": 1, "..": {}}')
    with pytest.raises(SettingsError) as caught:
        people.load(tmp_path / "people.json")
    assert len(caught.value.problems) == 2
    assert "people.json: ada: input should be an object" in caught.value.problems[0]


def test_secrets_are_hidden() -> None:
    """Neither repr nor a log line of the settings shows a secret."""
    settings = Profile(
        auth_token="hunter1", override_token="hunter2", redis_url="redis://:hunter3@r", redis_password="hunter4"
    )
    assert "hunter" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_settings_do_not_change() -> None:
    """Settings are frozen: what was checked at start is what holds."""
    with pytest.raises(ValueError, match="frozen"):
        Auth().port = 1


@pytest.mark.parametrize(
    ("url", "given", "address"),
    [
        ("redis://r:1/2", {}, "redis://r:1/2"),
        ("redis://r:1/2", {"redis_password": "a/b@c:%"}, "redis://:a%2Fb%40c%3A%25@r:1/2"),
        ("redis://u:p@r", {"redis_password": "other"}, "redis://u:p@r"),
        ("rediss://r", {"redis_username": "u", "redis_password": "p"}, "rediss://u:p@r"),
        ("redis+sentinel://a:1,b:2/s", {"redis_password": "p"}, "redis+sentinel://:p@a:1,b:2/s"),
        ("unix:///tmp/r.sock", {}, "unix:///tmp/r.sock"),
        ("unix:///tmp/r.sock?db=1", {"redis_password": "p"}, "unix://:p@/tmp/r.sock?db=1"),
    ],
)
def test_login_is_put_into_the_address(url: str, given: dict[str, str], address: str) -> None:
    """A password from a secret of its own is put into the address, whatever characters it has."""
    assert RedisSettings(redis_url=url, **given).redis_address == address


def test_misspelt_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is nearly a setting is told; what Kubernetes adds for a service of that name is not."""
    monkeypatch.setenv("PROFILE_FALLBACK_AGE_SECOND", "1")
    monkeypatch.setenv("PROFILE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PROFILE_PORT_8081_TCP_ADDR", "10.0.0.1")
    assert misspelt(Profile) == [
        "PROFILE_FALLBACK_AGE_SECOND is no setting; did you mean PROFILE_FALLBACK_AGE_SECONDS?"
    ]


@pytest.mark.parametrize(
    ("given", "trip"),
    [
        ({}, FailureRate(0.5, 20)),
        ({"breaker_failure_rate": 0, "breaker_consecutive_failures": 3}, ConsecutiveFailures(3)),
        (
            {"breaker_consecutive_failures": 3, "breaker_slow_call_rate": 0.5, "breaker_minimum_calls": 7},
            AnyOf(FailureRate(0.5, 7), ConsecutiveFailures(3), SlowCallRate(0.5, 1.0, 7)),
        ),
    ],
)
def test_policy_is_what_the_settings_say(given: dict[str, Any], trip: object) -> None:
    """Each threshold above 0 trips; several of them as any of them."""
    assert Profile(**given).policy.trip == trip
