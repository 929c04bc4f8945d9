"""Every setting of the services is a value, and every variable of a pod is known to whoever reads it."""

import math
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from apps.auth.settings import Settings as Auth
from apps.gateway.settings import Settings as Gateway
from apps.profile.settings import Settings as Profile
from apps.shared.settings import load, variables
from tests.chart.rendering import SERVICES, merged, nested, render
from tests.chart.values import Value, leaves

KINDS: dict[str, type[BaseSettings]] = {"gateway": Gateway, "profile": Profile, "auth": Auth}
SETTINGS = {variable: kind.model_fields[name] for kind in KINDS.values() for name, variable in variables(kind).items()}
VALUES = {variable: value for value in leaves() for variable in value.settings}
EVERYTHING = merged(
    {
        "telemetry": {"otlpEndpoint": "http://collector:4318"},
        "auth": {"faults": {"enabled": True}, "token": {"existingSecret": "token"}},
        "profile": {"overrideToken": {"existingSecret": "operators"}},
    },
    nested("redis.enabled", value=False)
    | nested("externalRedis", {"host": "redis.test", "existingSecret": "x", "tls": {"existingSecret": "ca"}}),
)
OTHERS = {
    "POD_NAME": "for what refers to it",
    "POD_NAMESPACE": "for what refers to it",
    "POD_UID": "for what refers to it",
    "NODE_NAME": "for what refers to it",
    "SSL_CERT_FILE": "read by OpenSSL",
}
OTEL = {
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_PROPAGATORS",
}
ELSEWHERE = {
    "PROFILE_REPLICA": "the pod's name",
}
OF_THE_CLUSTER = {
    "LISTEN_HOST": "a pod is asked from outside of itself",
    "DRAIN_SECONDS": "longer than an idle connection lives with its caller: none is closed in its face",
    "GATEWAY_METRICS_PORT": "pods do not share an address",
    "PROFILE_METRICS_PORT": "pods do not share an address",
    "AUTH_METRICS_PORT": "pods do not share an address",
    "PROFILE_PORT": "pods do not share an address",
    "GATEWAY_ROUTES": "the chart's own profile",
    "PROFILE_AUTH_URL": "the chart's own auth",
    "REDIS_URL": "the chart's own Redis",
}


def _limits(field: FieldInfo) -> tuple[float | None, ...]:
    """Return least, above, most and below, the narrowest of all that are said."""
    found: dict[type, list[float]] = {Ge: [], Gt: [], Le: [], Lt: []}
    for rule in field.metadata:
        for inner in getattr(rule, "metadata", [rule]):
            if type(inner) in found:
                [number] = vars(inner).values() if hasattr(inner, "__dict__") else [getattr(inner, inner.__slots__[0])]
                found[type(inner)].append(float(number))
    least, above = max(found[Ge], default=None), max(found[Gt], default=None)
    if least is not None and above is not None:
        least, above = (None, above) if above >= least else (least, None)
    return least, above, min(found[Le], default=None), min(found[Lt], default=None)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_a_pod_has_no_variable_that_nobody_reads(service: str, values: dict[str, Any]) -> None:
    """Each variable is a setting of the service, of OpenTelemetry, or explained."""
    known = set(variables(KINDS[service]).values()) | OTEL | set(OTHERS)
    assert set(render(values).environment(f"demo-{service}")) <= known


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_told_every_setting(service: str) -> None:
    """With all values in use, nothing that a service can be asked for is left out."""
    told = render(EVERYTHING).environment(f"demo-{service}")
    assert set(variables(KINDS[service]).values()) <= set(told)


def test_every_setting_is_a_value() -> None:
    """What can be set in the environment can be set by a value, but for a pod's own name."""
    assert set(SETTINGS) - set(VALUES) == set(ELSEWHERE)
    assert set(VALUES) <= set(SETTINGS)


@pytest.mark.parametrize("variable", VALUES)
def test_a_value_has_the_range_of_its_setting(variable: str) -> None:
    """What the schema lets through the service takes, and the reverse; ports of containers aside."""
    node, field = VALUES[variable].node, SETTINGS[variable]
    if variable.endswith("_PORT"):
        assert node["minimum"] == 1024
        return
    keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    assert tuple(node.get(key) for key in keys) == _limits(field)


@pytest.mark.parametrize("variable", VALUES)
def test_a_value_has_the_default_of_its_setting(variable: str) -> None:
    """A default differs from the service's own only where a cluster is another place, and that is said."""
    default, own = VALUES[variable].default, SETTINGS[variable].default
    if variable in OF_THE_CLUSTER or VALUES[variable].path.endswith(("existingSecret", ".key", "Key")):
        return
    own = own.get_secret_value() if isinstance(own, SecretStr) else "" if own is None else own
    assert default == own


def test_the_services_take_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defaults of the chart every service starts."""
    for service, kind in KINDS.items():
        with monkeypatch.context() as patched:
            _set(patched, render().environment(f"demo-{service}"))
            load(kind)


@pytest.mark.parametrize("value", [value for value in leaves() if value.settings], ids=lambda value: value.path)
def test_a_value_reaches_its_variable(value: Value) -> None:
    """Another value changes the variables it is said to become, and no other setting."""
    given = _TOGETHER.get(value.path) or nested(value.path, _another(value))
    start = {"redis": {"enabled": False}, "externalRedis": {"host": "redis.test", "existingSecret": "x"}}
    start = merged(start, {"auth": {"faults": {"enabled": True}, "token": {"existingSecret": "x"}}})
    start = merged(start, {"profile": {"overrideToken": {"existingSecret": "x"}}})
    changed = set()
    before, after = render(start), render(merged(start, given))
    for service in SERVICES:
        one, other = (each.environment(f"demo-{service}") for each in (before, after))
        changed |= {name for name in one | other if one.get(name) != other.get(name)}
    assert changed == set(value.settings) | _MORE.get(value.path, set())


_MORE = {"auth.faults.enabled": {"REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PREFIX"}}
_TOGETHER: dict[str, dict[str, Any]] = {
    "externalRedis.url": {"externalRedis": {"host": "", "url": "redis://other.test:6380/1"}},
    "auth.faults.enabled": {"auth": {"faults": {"enabled": False}}},
    "gateway.routes": {"gateway": {"routes": {"/breakers": ["http://{{ .Release.Name }}-profile:8081"]}}},
    "profile.auth.url": {"profile": {"auth": {"url": "https://auth.test"}}},
    "profile.breaker.failureRate": {"profile": {"breaker": {"failureRate": 0.25}}},
}


def _another(value: Value) -> Any:
    """Return a value that the schema allows, and that is not the default."""
    node, default = value.node, value.default
    if node["type"] == "boolean":
        return not default
    if "enum" in node:
        return next(word for word in node["enum"] if word != default)
    if node["type"] == "string":
        return "another"
    if node["type"] == "integer":
        return default + 1
    return min(node["maximum"], math.ceil(default * 10) / 10 + 0.25)


def _set(patched: pytest.MonkeyPatch, environment: dict[str, Any]) -> None:
    for name, text in environment.items():
        patched.setenv(name, text.replace("$(POD_NAME)", "pod-1") if isinstance(text, str) else "secret")


def test_numbers_are_written_as_the_services_read_them() -> None:
    """A large whole number is not turned into 1.048576e+07."""
    told = render({"gateway": {"bodyBytes": 2**40}}).environment("demo-gateway")
    assert told["GATEWAY_BODY_BYTES"] == str(2**40)
    assert told["GATEWAY_FIRST_BYTE_SECONDS"] == "10"


def test_without_an_endpoint_nothing_is_said_of_exports() -> None:
    """No endpoint, no export: and the SDK is not switched off, as the metrics are its own."""
    told = render().environment("demo-profile")
    assert {name for name in told if name.startswith("OTEL_")} == {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}


def test_the_resource_names_the_pod() -> None:
    """Telemetry says which pod, node, namespace and deployment it comes from, and what the user adds."""
    added = {"telemetry": {"resourceAttributes": {"deployment.environment.name": "shop"}}}
    pairs = render(added).environment("demo-profile")["OTEL_RESOURCE_ATTRIBUTES"].split(",")
    said = dict(pair.split("=") for pair in pairs)
    assert said["k8s.pod.name"] == "$(POD_NAME)"
    assert said["k8s.pod.uid"] == "$(POD_UID)"
    assert said["k8s.node.name"] == "$(NODE_NAME)"
    assert said["k8s.namespace.name"] == "$(POD_NAMESPACE)"
    assert said["k8s.deployment.name"] == "demo-profile"
    assert said["service.instance.id"] == "$(POD_NAMESPACE).$(POD_NAME).profile"
    assert said["deployment.environment.name"] == "shop"


def test_what_a_variable_refers_to_stands_before_it() -> None:
    """Kubernetes puts in only what was said before."""
    names = [each["name"] for each in render().container("demo-profile")["env"]]
    first = max(names.index(name) for name in ("NODE_NAME", "POD_NAME", "POD_NAMESPACE", "POD_UID"))
    assert first < names.index("OTEL_RESOURCE_ATTRIBUTES") < len(names)
    assert first < names.index("PROFILE_REPLICA")
    assert render().environment("demo-profile")["PROFILE_REPLICA"] == "$(POD_NAME)"
