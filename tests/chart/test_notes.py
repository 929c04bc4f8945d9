"""What is printed after an install: commands for these values, and warnings."""

import re
from typing import Any

import pytest

from tests.chart.rendering import merged, nested, render, without_secret

_OUTSIDE: dict[str, Any] = {"redis": {"enabled": False}, "externalRedis": {"host": "r.test", "prefix": "mine"}}
_FAULTS = nested("auth.faults.enabled", value=True)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "kubectl -n shop port-forward service/demo-gateway 8080:8080"),
        ({"fullnameOverride": "front"}, "kubectl -n shop port-forward service/front-gateway 8080:8080"),
        (nested("gateway.service", {"type": "NodePort", "nodePort": 30080}), "<address of a node>:30080/profile/ada"),
        (
            nested("gateway.service", {"type": "NodePort", "nodePort": 30080}),
            "with kind-config.yaml: http://127.0.0.1:8080",
        ),
        (nested("gateway.service", {"type": "NodePort", "nodePort": 30081}), ":30081/profile/ada\n"),
        (nested("gateway.service", {"type": "LoadBalancer"}), "kubectl -n shop get service demo-gateway --watch"),
        (nested("gateway.ingress", {"enabled": True, "hosts": ["a.test"]}), "curl http://a.test/profile/ada"),
        (
            nested("gateway.ingress", {"enabled": True, "hosts": ["a.test"], "tls": [{"secretName": "s"}]}),
            "curl https://a.test/profile/ada",
        ),
        (
            nested("gateway.httpRoute", {"enabled": True, "hostnames": ["b.test"], "parentRefs": [{"name": "g"}]}),
            "curl http://b.test/profile/ada",
        ),
        ({"tests": {"user": "grace"}}, "/profile/grace"),
        ({}, "kubectl -n shop port-forward service/demo-profile 8081:8081"),
        ({}, "exec deploy/demo-redis -- redis-cli --user commontrip get cb:auth:state"),
        (nested("redis.port", 7000), "-- redis-cli -p 7000 --user commontrip get cb:auth:state"),
        ({}, "kubectl -n shop scale deployment/demo-auth --replicas=0    # and back: --replicas=2"),
        (nested("auth.autoscaling", {"enabled": True, "minReplicas": 4}), "--replicas=0    # and back: --replicas=4"),
        (_FAULTS, '{"kind": "error", "expires_seconds": 30}'),
        (nested("auth.faults", {"enabled": True, "maxSeconds": 12.5}), '"expires_seconds": 12.5}'),
        (merged(_FAULTS, nested("profile.breaker.minimumCalls", 50)), "for i in $(seq 100); do curl -s"),
        (nested("profile.auth.url", "http://a.test"), "profile asks http://a.test (profile.auth.url): to try the br"),
        (_FAULTS, "curl -X PUT http://127.0.0.1:8082/faults"),
        ({}, "helm test demo -n shop"),
    ],
)
def test_commands_fit_the_values(values: dict[str, Any], line: str) -> None:
    """What is printed can be pasted."""
    assert line in render(values).notes


def test_commands_name_objects_that_exist() -> None:
    """No command leads to something that the release does not have."""
    for values in ({}, _FAULTS, {"fullnameOverride": "front"}, {"redis": {"fullnameOverride": "memory"}}):
        rendered = render(values)
        names = {(found["kind"].lower(), found["metadata"]["name"]) for found in rendered.objects}
        named = set(re.findall(r"\b(service|deploy(?:ment)?)/([a-z-]+)", rendered.notes))
        assert {(kind.replace("deploy", "deployment")[:10], name) for kind, name in named} <= names
        assert len(named) >= 3


@pytest.mark.parametrize(
    ("words", "when", "otherwise"),
    [
        ("Two releases on this Redis need two prefixes: this one has externalRedis.prefix=mine", _OUTSIDE, {}),
        ("Redis keeps nothing on disk", {}, nested("redis.persistence.enabled", value=True)),
        ("WARNING: auth has no token", {}, nested("auth.token.existingSecret", "t")),
        ("WARNING: auth.faults.enabled", _FAULTS, {}),
        ("WARNING: networkPolicy.enabled is false", nested("networkPolicy.enabled", value=False), {}),
        ("Spans are exported nowhere", {}, nested("telemetry.otlpEndpoint", "http://c:4318")),
        (
            "The gateway does not believe X-Forwarded-*",
            nested("gateway.ingress.enabled", value=True),
            nested("gateway", {"ingress": {"enabled": True}, "trustForwarded": True}),
        ),
    ],
)
def test_a_warning_stands_where_it_holds(words: str, when: dict[str, Any], otherwise: dict[str, Any]) -> None:
    """And nowhere else."""
    assert words in render(when).notes
    assert words not in render(otherwise).notes


def test_a_generated_password_is_explained() -> None:
    """Who applies by kubectl is told what it means."""
    assert "helm template | kubectl apply" in without_secret().notes
    assert "helm template | kubectl apply" not in render().notes


def test_the_token_is_read_from_its_secret() -> None:
    """The command for a fault shows it the way it is stored."""
    notes = render(merged(_FAULTS, nested("auth.token", {"existingSecret": "t", "key": "k"}))).notes
    assert "get secret t -o jsonpath='{.data.k}'" in notes
