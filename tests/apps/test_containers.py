"""The image and the compose file, as far as they can be read; `tests/e2e/compose.py` runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.shared.settings import ServiceSettings, load, variables
from tests.apps.env_template import FILE, SERVICES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "apps" / "Dockerfile").read_text()
STEPS = [line.split(None, 1) for line in re.sub(r"\\\n", "", DOCKERFILE).splitlines() if line and line[0] != "#"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
TEMPLATE = dict(line.split("=", 1) for line in FILE.read_text().splitlines() if line and line[0] != "#")

each_service = pytest.mark.parametrize("service", SERVICES)


def step(word: str) -> list[str]:
    """Return what follows each instruction of that name."""
    return [rest for name, rest in STEPS if name == word]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(pair.split("=", 1) for line in step("ENV") for pair in line.split())


def inside(service: str) -> dict[str, str]:
    """Return what compose sets in a service's containers, beside .env."""
    return {name: str(value) for name, value in COMPOSE[service]["environment"].items()}


@pytest.fixture
def settings(service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a service in compose reads when .env is the template."""
    for name, value in {**image_environment(), **TEMPLATE, **inside(service)}.items():
        monkeypatch.setenv(name, value)
    return load(SERVICES[service])


def test_any_builder_will_do() -> None:
    """The Dockerfile asks for nothing that the classic builder lacks."""
    assert not re.search(r"^#\s*syntax|--mount|<<|--link|--chmod", DOCKERFILE, re.MULTILINE)


def test_services_are_those_that_there_are() -> None:
    """APP may be each folder of apps that is a service, and compose runs each."""
    services = {path.parent.name for path in (ROOT / "apps").glob("*/app.py")}
    [choices] = re.findall(r'case "\$APP" in (\S+)\)', DOCKERFILE)
    assert set(choices.split("|")) == services == set(SERVICES) == set(COMPOSE) - {"redis"}
    for service in SERVICES:
        assert COMPOSE[service]["build"] == {
            "context": ".",
            "dockerfile": "apps/Dockerfile",
            "args": {"APP": service},
        }


def test_python_is_the_first_process() -> None:
    """SIGTERM reaches Python, which is not root: no shell before it, and a user that is a number."""
    [command], [user] = step("CMD"), step("USER")
    assert json.loads(command)[0] == "python"
    assert not step("ENTRYPOINT")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_packages_are_checked_by_hash() -> None:
    """Every package that is installed is one of the lock."""
    installs = [line for line in step("RUN") if re.search(r"\bpip\b.* install\b", line)]
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_what_is_copied_is_there() -> None:
    """`.dockerignore` lets through what the Dockerfile copies, and only that."""
    copied = {words.split()[0] for words in step("COPY") if not words.startswith("--from")}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / one).exists() for one in copied)


@each_service
def test_image_listens_where_it_says(service: str) -> None:
    """An image's variables are settings, and the ports among them are those that it exposes."""
    known = {name for kind in SERVICES.values() for name in variables(kind).values()}
    environment, [exposed] = image_environment(), step("EXPOSE")
    assert set(environment) - {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} <= known
    for name in (f"{service.upper()}_PORT", f"{service.upper()}_METRICS_PORT"):
        assert environment[name] in exposed.split()
        assert inside(service)[name] == environment[name]
    assert inside(service)["LISTEN_HOST"] == environment["LISTEN_HOST"] == "0.0.0.0"  # noqa: S104 - in a container


@each_service
def test_compose_sets_what_a_service_reads(service: str) -> None:
    """No variable is misspelt, or another service's."""
    assert set(inside(service)) <= set(variables(SERVICES[service]).values())


@each_service
def test_addresses_of_the_laptop_stay_outside(service: str, settings: ServiceSettings) -> None:
    """Whatever the template says of this machine, in a container no setting leads to the container itself."""
    shown = {name: getattr(value, "get_secret_value", lambda v=value: v)() for name, value in settings}
    assert {name: value for name, value in shown.items() if re.search(r"127\.|localhost", str(value))} == {}
    assert settings.port == int(inside(service)[f"{service.upper()}_PORT"])


@each_service
def test_neighbours_are_where_they_listen(service: str) -> None:
    """Every address in a variable is a service of the file, at the port on which it listens."""
    ports = {name: inside(name)[f"{name.upper()}_PORT"] for name in SERVICES} | {"redis": "6379"}
    for value in inside(service).values():
        for host, port in re.findall(r"://([^:/,;]+):(\d+)", value):
            assert ports[host] == port
            needed = COMPOSE[service]["depends_on"]
            assert host in needed


@each_service
def test_published_ports_follow_the_settings(service: str) -> None:
    """Published is on this machine only, at the port that .env names; profile, of which there are several, is not."""
    name, kind = f"{service.upper()}_PORT", SERVICES[service]
    expected = [f"127.0.0.1:${{{name}:-{kind.model_fields['port'].default}}}:{inside(service)[name]}"]
    assert COMPOSE[service].get("ports", []) == ([] if service == "profile" else expected)


@each_service
def test_health_is_asked_where_it_is(service: str) -> None:
    """The health check asks the port on which the service listens."""
    assert f":{inside(service)[f'{service.upper()}_PORT']}/readyz" in COMPOSE[service]["healthcheck"]["test"][-1]


@each_service
def test_grace_is_long_enough(service: str, settings: ServiceSettings) -> None:
    """Nobody is killed while it drains and finishes."""
    grace = float(COMPOSE[service]["stop_grace_period"].removesuffix("s"))
    assert grace >= settings.drain_seconds + settings.shutdown_seconds + 5


@pytest.mark.parametrize("service", COMPOSE)
def test_confined(service: str) -> None:
    """A container has no capability, gains none, and cannot write to its root."""
    one = COMPOSE[service]
    assert one["read_only"]
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "volumes", "network_mode", "pid"} & set(one)


def test_three_replicas_have_names_of_their_own() -> None:
    """Profile runs three times, and what .env may say of its name holds for none of them."""
    assert COMPOSE["profile"]["deploy"]["replicas"] == 3
    assert inside("profile")["PROFILE_REPLICA"] == ""
