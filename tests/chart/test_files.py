"""Files that say the same thing twice say the same thing."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import CHART, REDIS, Rendered, defaults, load_all, render, schema
from tests.chart.values import groups, leaves
from tests.chart.written import RENDERED, files

CHARTS = pytest.mark.parametrize("chart", [CHART, REDIS], ids=lambda chart: chart.name)


def test_written_files_are_fresh() -> None:
    """values.yaml's comments, the tables and k8s/rendered are as `python -m tests.chart.written` writes them."""
    for file, text in files().items():
        assert file.read_text() == text, f"{file} is stale: python -m tests.chart.written"
    assert set(RENDERED.iterdir()) == {file for file in files() if file.parent == RENDERED}


@CHARTS
def test_every_value_is_described_and_bounded(chart: Path) -> None:
    """What it means; for a number its unit or kind, and a range."""
    for value in leaves(chart):
        assert value.node.get("description"), value.path
        if value.node["type"] in ("number", "integer"):
            assert {"minimum", "exclusiveMinimum"} & set(value.node), value.path
            assert {"maximum", "exclusiveMaximum"} & set(value.node), value.path
        if value.path.endswith("Seconds"):
            assert "seconds" in value.node["description"], value.path


@CHARTS
def test_values_and_schema_have_the_same_keys(chart: Path) -> None:
    """Each value has a default, each default is described: in the same order."""
    given = list(_keys(chart, defaults(chart)))
    described = [value.path for value in leaves(chart)]
    own = [path for path in described if path != "enabled"]  # which only a chart around this one sets
    assert sorted(given) == sorted(own if chart == REDIS else described)


def _keys(chart: Path, value: Any, path: str = "") -> Any:
    open_maps = {leaf.path for leaf in leaves(chart)}
    for key, below in value.items():
        where = f"{path}.{key}".strip(".")
        if where in open_maps:
            yield where
        else:
            yield from _keys(chart, below, where)


@CHARTS
def test_the_schema_is_one_that_helm_3_reads_too(chart: Path) -> None:
    """Draft 7, sound, and the defaults keep to it."""
    jsonschema.Draft7Validator.check_schema(schema(chart))
    jsonschema.Draft7Validator(schema(chart)).validate(defaults(chart))
    for _, node in groups(chart):
        assert "unevaluatedProperties" not in node


@CHARTS
def test_helm_lint_finds_nothing(chart: Path) -> None:
    """Strictly; an icon is a recommendation."""
    report = helm_python.lint(chart, {}, strict=True, with_subcharts=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if "icon" not in message["error"]] == []


def test_the_dependency_is_there_and_needs_no_network() -> None:
    """The subchart stands unpacked, with the name and version that the chart asks for, and no repository."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    redis = yaml.safe_load((REDIS / "Chart.yaml").read_text())
    [dependency] = chart["dependencies"]
    assert dependency["repository"] == ""
    assert dependency["condition"] == "redis.enabled"
    assert (dependency["name"], dependency["version"]) == (redis["name"], redis["version"])
    assert not list((CHART / "charts").glob("*.tgz"))


def test_each_value_of_redis_can_be_set_from_outside() -> None:
    """The values under `redis.` are the subchart's: none is declared twice."""
    assert defaults()["redis"] == {"enabled": True}
    assert list(schema()["properties"]["redis"]["properties"]) == ["enabled"]


def test_plain_yaml_has_no_secret_and_no_hook() -> None:
    """k8s/rendered can be committed and applied: it names a Secret, holds none, and leaves out helm test."""
    objects = [found for file in RENDERED.iterdir() for found in load_all(file.read_text())]
    rendered = Rendered({}, objects)
    assert rendered.all("Secret", "Pod") == []
    assert len(rendered.all("Deployment")) == 4
    assert "commontrip-redis" in json.dumps(rendered.pod("commontrip-profile"))


KUBERNETES = ("1.30", "1.34", "1.37")
"""The oldest that Chart.yaml admits, that of `make e2e` in CI, and the newest whose schemas there are."""
VARIETY: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {
        "auth": {"faults": {"enabled": True}, "token": {"existingSecret": "t"}},
        "gateway": {"service": {"type": "NodePort", "nodePort": 30080}, "ingress": {"enabled": True}},
        "profile": {"autoscaling": {"enabled": True}},
        "redis": {"persistence": {"enabled": True}},
        "telemetry": {"otlpEndpoint": "http://c:4318"},
    },
    "external": {"redis": {"enabled": False}, "externalRedis": {"host": "r", "tls": {"existingSecret": "x"}}},
}


def _check(program: str, *words: str, text: str) -> None:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not on the PATH")
    done = subprocess.run([found, *words], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _text(values: dict[str, Any]) -> str:
    return "\n---\n".join(text for name, text in render(values).texts.items() if name.endswith(".yaml"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VARIETY.values(), ids=VARIETY)
def test_kubernetes_knows_every_field(values: dict[str, Any], version: str) -> None:
    """Each object keeps to the schema that this version of Kubernetes has of it, and has no field that it has not."""
    for found in render(values).objects:
        kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VARIETY.values(), ids=VARIETY)
def test_kubeconform_finds_the_objects_sound(values: dict[str, Any], version: str, tmp_path: Path) -> None:
    """And so says another program that many have in their CI."""
    for found in render(values).objects:
        name = "-".join([found["kind"].lower(), *found["apiVersion"].replace(".k8s.io", "").split("/")]) + ".json"
        (tmp_path / name).write_text(_alone(version, name))
    place = f"{tmp_path}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    _check("kubeconform", "-strict", "-schema-location", place, text=_text(values))


@functools.cache
def _alone(version: str, name: str) -> str:
    """Return a schema with all that it refers to: kubeconform follows no reference into another file."""
    whole = {key: part for key, part in _schema(version, name).items() if key != "$id"}
    definitions, found = _schema(version, "_definitions.json")["$defs"], dict[str, Any]()
    while missing := set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps([whole, found]))) - set(found):
        found |= {each: definitions[each] for each in missing}
    return json.dumps(whole | {"$defs": found})


@functools.cache
def _schema(version: str, name: str) -> Any:
    folder = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}.0-local-strict"
    return json.loads((folder / name).read_text().replace("/api/_definitions.json#", "#"))


@pytest.mark.parametrize("values", VARIETY.values(), ids=VARIETY)
def test_kube_score_finds_nothing_critical(values: dict[str, Any]) -> None:
    """But for what is meant: no CPU limit, as it delays without need, and images that are present are not pulled."""
    ignored = ["container-image-pull-policy", "container-security-context-user-group-id"]
    words = [word for each in ignored for word in ("--ignore-test", each)]
    _check("kube-score", "score", "--ignore-container-cpu-limit", *words, "-", text=_text(values))
