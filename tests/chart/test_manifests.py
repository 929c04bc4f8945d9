"""What lies beside the chart: k8s/, skaffold.yaml and kind-config.yaml agree with it, and with each other."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart import observability
from tests.chart.rendering import ROOT, Object, Rendered, merged, nested, render

FILES = sorted((ROOT / "k8s").rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
SCHEMA = ROOT.parent / "shared/cluster/schemas/skaffold-v4beta14.json"
ABROAD = {"ClusterRole", "ClusterRoleBinding", "Namespace", "Kustomization"}


def load(path: Path) -> list[Object]:
    """Return a file's objects."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def fault(name: str) -> list[Object]:
    """Return the objects of a fault."""
    return load(ROOT / "k8s/faults" / f"{name}.yaml")


@pytest.fixture(scope="module")
def demo() -> Rendered:
    """The release that the faults and skaffold.yaml are for."""
    return render({"auth": {"faults": {"enabled": True}}})


@pytest.fixture(scope="module")
def skaffold() -> Object:
    """The file, read."""
    [found] = load(ROOT / "skaffold.yaml")
    return found


def pod_specs(objects: list[Object]) -> list[Object]:
    """Return the pods that these objects are or make."""
    found = [each["spec"] for each in objects if each["kind"] == "Pod"]
    return found + [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_pods_are_confined(path: Path) -> None:
    """Every pod keeps to Pod Security `restricted`, cannot write to its root, and has bounds for memory."""
    for spec in pod_specs(load(path)):
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_folder_is_a_namespace(path: Path) -> None:
    """What is in k8s/faults is for `commontrip`, in k8s/observability for `observability`; a render says nothing."""
    expected = {"faults": "commontrip", "observability": "observability"}.get(path.parent.name)
    found = {each["metadata"].get("namespace") for each in load(path) if each["kind"] not in ABROAD}
    assert found <= {expected}


def test_namespaces_enforce_restricted() -> None:
    """No namespace lets in what is not `restricted`."""
    found = [each for path in FILES for each in load(path) if each["kind"] == "Namespace"]
    levels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in found}
    assert set(levels) == {"commontrip", "observability"}
    assert {labels["pod-security.kubernetes.io/enforce"] for labels in levels.values()} == {"restricted"}


def test_faults_hit_what_is_there(demo: Rendered) -> None:
    """The Deployments that faults scale, and they alone, may be scaled, and are the release's."""
    [targets, role] = [
        {
            each["value"]
            for name in ("auth-down", "redis-gone")
            for each in fault(name)[0]["spec"]["containers"][0]["env"]
        },
        next(each for each in fault("rights") if each["kind"] == "Role"),
    ]
    assert set(role["rules"][0]["resourceNames"]) == targets
    assert all(demo.has("Deployment", target) for target in targets)
    accounts = {fault(name)[0]["spec"]["serviceAccountName"] for name in ("auth-down", "redis-gone")}
    assert accounts == {each["metadata"]["name"] for each in fault("rights")}


def test_the_slow_fault_reaches_auth(demo: Rendered) -> None:
    """It asks auth's Service, and the policies take it for one of `helm test`'s pods."""
    [pod] = fault("slow-auth")
    environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    port = demo.one("Service", "demo-auth")["spec"]["ports"][0]["port"]
    assert environment["FAULTS"] == f"http://demo-auth:{port}/faults"
    rules = demo.one("NetworkPolicy", "demo-auth")["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"] for rule in rules for peer in rule.get("from", [])]
    assert pod["metadata"]["labels"] in peers
    waits = demo.one("ConfigMap", "demo-profile")["data"]["PROFILE_AUTH_TIMEOUT_SECONDS"]
    assert json.loads(environment["FAULT"])["latency_seconds"] > float(waits)


def test_observability_has_the_charts_rules_and_dashboard() -> None:
    """`python -m tests.chart.observability` was run after the last change, and its file says what the chart's say."""
    assert observability.GENERATED.read_text() == observability.text()
    found = {each["metadata"]["name"]: each["data"] for each in load(observability.GENERATED)}
    assert yaml.safe_load(found["commontrip-rules"]["rules.yaml"])["groups"]
    assert json.loads(found["commontrip-dashboard"]["dashboard.json"])["panels"]


def test_observability_is_whole() -> None:
    """The kustomization names every file, and what is mounted or asked is there."""
    folder = ROOT / "k8s/observability"
    [listed] = load(folder / "kustomization.yaml")
    assert sorted([*listed["resources"], "kustomization.yaml"]) == sorted(path.name for path in folder.iterdir())
    objects = [each for path in folder.iterdir() for each in load(path)]
    there = {(each["kind"], each.get("metadata", {}).get("name")) for each in objects}
    mounted = {
        each["configMap"]["name"] for spec in pod_specs(objects) for each in spec["volumes"] if "configMap" in each
    }
    assert {("ConfigMap", name) for name in mounted} <= there
    ports = {each["metadata"]["name"]: each["spec"]["ports"] for each in objects if each["kind"] == "Service"}
    text = "".join(path.read_text() for path in folder.iterdir())
    asked = re.findall(r"http://([a-z]+):(\d+)", text)
    assert {(host, port["port"]) for host, found in ports.items() for port in found} >= {(h, int(p)) for h, p in asked}


def test_prometheus_finds_the_chart(demo: Rendered) -> None:
    """It takes what the chart's pods have: a port called `metrics`, and the label of what they are part of."""
    text = (ROOT / "k8s/observability/prometheus.yaml").read_text()
    assert "regex: commontrip;metrics" in text
    for name in ("gateway", "profile", "auth"):
        labels = demo.one("Deployment", f"demo-{name}")["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "commontrip"
        assert "metrics" in {port["name"] for port in demo.container(f"demo-{name}")["ports"]}


def test_skaffold_keeps_to_its_schema(skaffold: Object) -> None:
    """It is what skaffold calls valid."""
    if not SCHEMA.exists():
        pytest.skip(f"skaffold's schema is not at {SCHEMA}")
    jsonschema.validate(skaffold, json.loads(SCHEMA.read_text()))


def released(skaffold: Object, *profiles: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the release with some profiles' patches of it, and the values that the chart then gets."""
    release = json.loads(json.dumps(skaffold["deploy"]["helm"]["releases"][0]))
    for profile in skaffold["profiles"]:
        for patch in profile["patches"] if profile["name"] in profiles else ():
            place, _, key = patch["path"].removeprefix("/deploy/helm/releases/0/").partition("/")
            if not patch["path"].startswith("/deploy"):
                continue
            if key:
                release[place][key] = patch["value"]
            else:
                release[place] = patch["value"]
    values = release.get("overrides", {})
    for key, value in release["setValues"].items():
        values = merged(values, nested(key, value=value))
    for key, template in release["setValueTemplates"].items():
        said = "redis://elsewhere:6379/0" if "URL" in template else "x"
        values = merged(values, nested(key, value=said))
    return release, values


@pytest.mark.parametrize("profiles", [(), ("dev",), ("otel",), ("external-redis",), ("dev", "otel", "external-redis")])
def test_the_chart_takes_skaffolds_values(skaffold: Object, profiles: tuple[str, ...]) -> None:
    """Whatever the profiles, the chart renders, with an image for each service."""
    release, values = released(skaffold, *profiles)
    rendered = render(values)
    for name in ("gateway", "profile", "auth"):
        assert rendered.container(f"demo-{name}")["image"] == "x:x"
        assert (rendered.container(f"demo-{name}").get("command") is not None) == ("dev" in profiles)
    for forward in skaffold["portForward"]:
        assert rendered.one("Service", forward["resourceName"])["spec"]["ports"][0]["port"] == forward["port"]
        assert forward["namespace"] == release["namespace"]
    [kind] = load(ROOT / "kind-config.yaml")
    mapped = {mapping["hostPort"] for node in kind["nodes"] for mapping in node.get("extraPortMappings", [])}
    assert not mapped & {forward["localPort"] for forward in skaffold["portForward"]}
    assert rendered.has("Deployment", "demo-redis") == ("external-redis" not in profiles)


def test_skaffold_builds_what_the_chart_runs(skaffold: Object, demo: Rendered) -> None:
    """An artifact for each image of the chart, by the Dockerfile that is there."""
    artifacts = {each["image"]: each["docker"] for each in skaffold["build"]["artifacts"]}
    images = {
        demo.container(f"demo-{name}")["image"].partition(":")[0]: name for name in ("gateway", "profile", "auth")
    }
    assert {image: docker["buildArgs"]["APP"] for image, docker in artifacts.items()} == images
    assert all((ROOT / docker["dockerfile"]).exists() for docker in artifacts.values())


def destination(rules: list[dict[str, str]], path: str) -> str | None:
    """Return where a changed file goes, as skaffold has it: the first pattern counts, `strip` is taken off."""
    for rule in rules:
        if fnmatch(path, rule["src"].replace("**", "*").replace("*/*", "*")):
            return f"{rule['dest']}/{path.removeprefix(rule.get('strip', ''))}"
    return None


def test_synchronised_files_go_where_the_image_has_them(skaffold: Object) -> None:
    """A changed file of the services or the library lands on the one that the Dockerfile put there."""
    [dev] = [profile for profile in skaffold["profiles"] if profile["name"] == "dev"]
    [rules, *_] = [patch["value"]["manual"] for patch in dev["patches"] if patch["path"].endswith("/sync")]
    docker = (ROOT / "apps/Dockerfile").read_text()
    assert "WORKDIR /app\nCOPY src/commontrip commontrip\nCOPY apps /apps\n" in docker
    assert 'cp -r /apps/__init__.py /apps/shared "/apps/$APP" apps/' in docker
    paths = [*(ROOT / "apps").rglob("*.py"), *(ROOT / "apps").rglob("*.lua"), *(ROOT / "src/commontrip").rglob("*.*")]
    for path in (str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts):
        assert destination(rules, path) == "/app/" + path.removeprefix("src/")


def test_kind_publishes_the_gateways_port(skaffold: Object) -> None:
    """The port that skaffold gives to the gateway is at 127.0.0.1:8080, and nowhere else."""
    [kind] = load(ROOT / "kind-config.yaml")
    assert [node["role"] for node in kind["nodes"]] == ["control-plane", "worker", "worker"]
    [mapping] = [each for node in kind["nodes"] for each in node.get("extraPortMappings", [])]
    port = skaffold["deploy"]["helm"]["releases"][0]["setValues"]["gateway.service.nodePort"]
    assert mapping == {"containerPort": port, "hostPort": 8080, "listenAddress": "127.0.0.1", "protocol": "TCP"}
