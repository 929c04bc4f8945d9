"""Replicas: who sets their number, and how many may be taken away at once."""

from typing import Any

import pytest

from tests.chart.rendering import SERVICES, render


def _service(**own: Any) -> dict[str, Any]:
    return dict.fromkeys(SERVICES, own)


@pytest.mark.parametrize("service", SERVICES)
def test_no_replicas_are_rendered_beside_an_autoscaler(service: str) -> None:
    """The autoscaler owns the number: an upgrade by server-side apply does not fight for it."""
    rendered = render(_service(autoscaling={"enabled": True, "minReplicas": 2, "maxReplicas": 5}))
    assert "replicas" not in rendered.one("Deployment", f"demo-{service}")["spec"]
    scaler = rendered.one("HorizontalPodAutoscaler", f"demo-{service}")
    assert scaler["apiVersion"] == "autoscaling/v2"
    assert scaler["spec"]["scaleTargetRef"]["name"] == f"demo-{service}"
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    assert scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300


@pytest.mark.parametrize("service", SERVICES)
def test_without_an_autoscaler_the_chart_says_how_many(service: str) -> None:
    """The number is the value's, 0 too, and there is no autoscaler."""
    rendered = render(_service(replicas=0))
    assert rendered.one("Deployment", f"demo-{service}")["spec"]["replicas"] == 0
    assert not rendered.has("HorizontalPodAutoscaler", f"demo-{service}")


@pytest.mark.parametrize(
    ("own", "guarded"),
    [
        ({"replicas": 2}, True),
        ({"replicas": 1}, False),
        ({"replicas": 0}, False),
        ({"replicas": 1, "autoscaling": {"enabled": True, "minReplicas": 2}}, True),
        ({"replicas": 5, "autoscaling": {"enabled": True, "minReplicas": 1}}, False),
        ({"replicas": 2, "podDisruptionBudget": {"enabled": False}}, False),
    ],
)
def test_a_budget_stands_where_two_replicas_are_certain(own: dict[str, Any], *, guarded: bool) -> None:
    """Counted is the least number that there can be: a budget for one pod would block every drain."""
    rendered = render(_service(**own))
    for service in SERVICES:
        assert rendered.has("PodDisruptionBudget", f"demo-{service}") is guarded
    for budget in rendered.all("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_redis_is_one_and_has_no_budget() -> None:
    """Two would be two memories; a budget for one would block drains."""
    rendered = render()
    assert rendered.one("Deployment", "demo-redis")["spec"]["replicas"] == 1
    assert rendered.one("Deployment", "demo-redis")["spec"]["strategy"] == {"type": "Recreate"}
    assert not rendered.has("PodDisruptionBudget", "demo-redis")
