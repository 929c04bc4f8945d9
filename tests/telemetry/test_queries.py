"""The chart's alerts and dashboard: every query asks for what a running service really exposes."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from commontrip import Outcome, Override, State
from tests.support.servers import Server
from tests.telemetry import promql
from tests.telemetry.fleet import Auth, Fleet
from tests.telemetry.promql import Exposed

FILES = Path(__file__).parents[2] / "charts" / "commontrip" / "files"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
BOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
TARGETS: dict[str, dict[str, Any]] = {
    f"{panel['title']} {target['refId']}": target for panel in BOARD["panels"] for target in panel["targets"]
}
METRICS = {
    "circuit_breaker_calls_total": {"circuit_breaker_name", "circuit_breaker_outcome"},
    "circuit_breaker_local_mode": {"circuit_breaker_name"},
    "circuit_breaker_override": {"circuit_breaker_name", "circuit_breaker_override"},
    "circuit_breaker_propagation_seconds_bucket": {"circuit_breaker_name", "le"},
    "circuit_breaker_state": {"circuit_breaker_name", "circuit_breaker_state"},
    "circuit_breaker_store_duration_seconds_bucket": {"circuit_breaker_store_operation", "error_type", "le"},
    "circuit_breaker_store_errors_total": {"circuit_breaker_store_operation", "error_type"},
    "circuit_breaker_transitions_total": {
        "circuit_breaker_name",
        "circuit_breaker_previous_state",
        "circuit_breaker_state",
        "circuit_breaker_transition_reason",
    },
}
"""Those of the design, as Prometheus names them, with their labels."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exposed]:
    """What two replicas expose after a trip, a recovery, and an outage of Redis."""
    with Server() as server:
        async with (
            Auth() as auth,
            Fleet(server, "metrics", auth, tmp_path_factory.mktemp("logs"), 2) as fleet,
            httpx.AsyncClient() as client,
        ):
            await fleet.trip(fleet.all[0])
            await fleet.recover(fleet.all[1])
            server.kill()
            texts: list[str] = []
            while not all("circuit_breaker_store_errors_total{" in text for text in texts) or not texts:
                for one in fleet.all:
                    await fleet.ask(one)
                texts = [(await client.get(f"http://127.0.0.1:{one.metrics_port}/metrics")).text for one in fleet.all]
            yield promql.exposed(*texts)


def test_the_metrics_of_the_design_are_exposed(there: Exposed) -> None:
    """Each by its name and with its labels, and states and outcomes are those of the library."""
    assert {name: set(there[name]) for name in METRICS} == METRICS
    assert there["circuit_breaker_state"]["circuit_breaker_state"] == {state.lower() for state in State}
    assert there["circuit_breaker_override"]["circuit_breaker_override"] == {order.lower() for order in Override}
    assert there["circuit_breaker_calls_total"]["circuit_breaker_outcome"] == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_asks_for_what_there_is(rule: dict[str, Any], there: Exposed) -> None:
    """Its metrics and labels exist, what its text names is in its result, and the runbook has a section on it."""
    assert promql.faults(rule["expr"], there) == []
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert named <= promql.labels_of(rule["expr"])
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in (FILES.parents[2] / "docs" / "operations.md").read_text()


async def test_flapping_sees_the_first_trip_of_a_fresh_replica(
    server: Server, prefix: str, auth: Auth, tmp_path: Path
) -> None:
    """Of two scrapes around it the second one is higher by one, as the series was there before."""
    (rule,) = [rule for rule in RULES if rule["alert"] == "CircuitBreakerFlapping"]
    async with Fleet(server, prefix, auth, tmp_path, 1) as fleet, httpx.AsyncClient() as client:
        scrape = partial(client.get, f"http://127.0.0.1:{fleet.all[0].metrics_port}/metrics")
        before = (await scrape()).text
        await fleet.trip(fleet.all[0])
        assert promql.increase(rule["expr"], before, (await scrape()).text) == 1


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_panel_asks_for_what_there_is(target: dict[str, Any], there: Exposed) -> None:
    """Its metrics and labels exist, and its legend names what is in its result."""
    assert promql.faults(target["expr"], there) == []
    legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    plain = target["expr"].replace("$__rate_interval", "1m")
    assert legend <= (promql.labels_of(plain) or promql.TARGET)


def _of_the_board() -> Iterator[str]:
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((.*), \w+\)", r"\1", variable["definition"])
    yield from (one["expr"] for one in BOARD["annotations"]["list"])


def test_variables_and_marks_of_the_dashboard_ask_for_what_there_is(there: Exposed) -> None:
    """Namespaces, services and circuits are offered from metrics that exist."""
    for query in _of_the_board():
        assert promql.faults(query, there) == [], query


def test_panels_do_not_overlap() -> None:
    """Each has a place of its own on the dashboard, and an id."""
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("max(circuit_breaker_status)", "no metric"),
        ('max(circuit_breaker_state{state="open"})', "no label state"),
        ('max(circuit_breaker_state{circuit_breaker_state="OPEN"})', "is never OPEN"),
        ("max by (breaker) (circuit_breaker_state)", "no label breaker"),
        ("sum(circuit_breaker_state)", "by max"),
        ("sum(circuit_breaker_override)", "by max"),
        ("circuit_breaker_state", "by max"),
        ("sum(circuit_breaker_calls_total)", "has no rate"),
        ("max(rate(circuit_breaker_calls_total[5m]))", "summed"),
        ("rate(circuit_breaker_calls_total[5m])", "summed"),
        ("sum(rate(circuit_breaker_local_mode[5m]))", "no counter"),
    ],
)
def test_a_wrong_query_is_found(query: str, fault: str, there: Exposed) -> None:
    """The checks above can fail."""
    assert any(fault in found for found in promql.faults(query, there))
