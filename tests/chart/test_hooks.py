"""`helm test`'s pods, and what is off by default: monitoring."""

import ast
import json
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, Rendered, merged, nested, render

_FAULTS = nested("auth.faults.enabled", value=True)


def _tests(values: dict[str, Any]) -> set[str]:
    return {found["metadata"]["name"] for found in render(values).all("Pod")}


def _environment(rendered: Rendered, name: str) -> dict[str, Any]:
    [container] = rendered.one("Pod", name)["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


@pytest.mark.parametrize(
    ("values", "breaker"),
    [
        ({}, False),
        (_FAULTS, True),
        (merged(_FAULTS, nested("profile.breaker.enabled", value=False)), False),
        (merged(_FAULTS, nested("profile.breaker", {"failureRate": 0, "slowCallRate": 0.5})), False),
        (merged(_FAULTS, nested("profile.breaker", {"failureRate": 0, "consecutiveFailures": 5})), True),
        (merged(_FAULTS, nested("profile.auth.url", "http://auth.test")), False),
    ],
)
def test_the_breaker_is_tried_where_that_is_possible(values: dict[str, Any], *, breaker: bool) -> None:
    """A request always; trip and recovery where faults can be ordered and failures open the circuit."""
    assert _tests(values) == {"demo-test-request"} | ({"demo-test-breaker"} if breaker else set())


def test_the_pods_are_hooks_that_leave_nothing() -> None:
    """One after the other, by names that do not change; one that succeeds goes, one that failed is there to be read."""
    pods = render(_FAULTS).all("Pod")
    notes = [found["metadata"]["annotations"] for found in pods]
    assert {note["helm.sh/hook"] for note in notes} == {"test"}
    assert {note["helm.sh/hook-delete-policy"] for note in notes} == {"before-hook-creation,hook-succeeded"}
    assert {note["helm.sh/hook-weight"] for note in notes} == {"0", "1"}
    for found in pods:
        assert found["spec"]["restartPolicy"] == "Never"
        assert found["spec"]["activeDeadlineSeconds"] > 120


def test_the_pods_run_the_script_by_an_image_of_ours() -> None:
    """Python runs the text of files/helm_test.py, unchanged, and is told which of its tests."""
    source = (CHART / "files/helm_test.py").read_text()
    for name in ("request", "breaker"):
        [container] = render(_FAULTS).one("Pod", f"demo-test-{name}")["spec"]["containers"]
        assert container["image"] == "commontrip/profile:0.1.0"
        assert container["command"] == ["python", "-c"]
        text, which = container["args"]
        assert which == name
        assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
        assert "$(" not in text, "Kubernetes would put a variable there"


def test_the_script_gets_every_variable_that_it_reads() -> None:
    """And none that it does not."""
    tree = ast.parse((CHART / "files/helm_test.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    told = _environment(render(merged(_FAULTS, nested("auth.token.existingSecret", "t"))), "demo-test-breaker")
    assert set(told) == {word for word in words if word.isupper() and word not in {"GET", "PUT", "DELETE", *_STATES}}
    assert told["PROFILE_PODS"] == "demo-profile-pods:8081"
    assert told["AUTH_TOKEN"] == {"secretKeyRef": {"name": "t", "key": "token"}}


_STATES = {"CLOSED", "OPEN"}


def test_the_pods_go_where_profile_goes() -> None:
    """Where nodes are tainted, or of several kinds, they are scheduled like the pods whose image they have."""
    where = {"nodeSelector": {"kind": "arm"}, "tolerations": [{"key": "spot"}], "priorityClassName": "high"}
    for pod in render(merged(_FAULTS, {"profile": where})).all("Pod"):
        assert {key: pod["spec"][key] for key in where} == where


@pytest.mark.parametrize(("most", "seconds"), [(600, "60"), (30.5, "30.5")])
def test_the_fault_is_no_longer_than_auth_allows(most: float, seconds: str) -> None:
    """A minute, or the longest that there may be."""
    rendered = render(nested("auth.faults", {"enabled": True, "maxSeconds": most}))
    assert _environment(rendered, "demo-test-breaker")["FAULT_SECONDS"] == seconds


def test_monitoring_is_off_by_default() -> None:
    """Nothing that needs further kinds of objects is there unless it is asked for."""
    kinds = {found["kind"] for found in render().objects}
    assert kinds == {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    assert not render().has("ConfigMap", "demo-dashboard")


def test_a_service_monitor_finds_every_pod_once() -> None:
    """It selects the headless Services, one for each component, by a port they have."""
    values = {"enabled": True, "labels": {"release": "prometheus"}, "intervalSeconds": 30}
    rendered = render({"serviceMonitor": values})
    monitor = rendered.one("ServiceMonitor", "demo")
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    found = [each for each in rendered.all("Service") if selector <= each["metadata"]["labels"].items()]
    assert {each["metadata"]["name"] for each in found} == {
        f"demo-{name}-pods" for name in ("gateway", "profile", "auth")
    }
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == "30s"
    assert all(endpoint["port"] in {port["name"] for port in each["spec"]["ports"]} for each in found)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_rules_are_those_of_the_file() -> None:
    """Every alert of files/rules.yaml is in the PrometheusRule, its templates untouched."""
    rule = render({"prometheusRule": {"enabled": True, "labels": {"release": "p"}}}).one("PrometheusRule", "demo")
    assert rule["spec"] == yaml.safe_load((CHART / "files/rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "p"


def test_the_dashboard_is_that_of_the_file() -> None:
    """files/dashboard.json stands in a ConfigMap with the label that Grafana's sidecar looks for."""
    values = {"dashboard": {"enabled": True, "annotations": {"folder": "f"}}}
    config = render({"grafana": values}).one("ConfigMap", "demo-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["annotations"] == {"folder": "f"}
    [text] = config["data"].values()
    assert json.loads(text) == json.loads((CHART / "files/dashboard.json").read_text())
