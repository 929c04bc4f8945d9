"""What every pod keeps to, whatever the values are: Pod Security, probes, an orderly end."""

from typing import Any

import pytest

from tests.chart.rendering import SERVICES, merged, render

VARIETY: dict[str, dict[str, Any]] = {
    "defaults": {},
    "faults": {"auth": {"faults": {"enabled": True}}},
    "external": {
        "redis": {"enabled": False},
        "externalRedis": {"host": "redis.test", "tls": {"enabled": True, "existingSecret": "ca"}},
    },
    "disk": {"redis": {"persistence": {"enabled": True}}},
    "scaled": {"profile": {"autoscaling": {"enabled": True}}},
    "development": {"security": {"readOnlyRootFilesystem": False}, "gateway": {"command": ["python"]}},
    "ids of the cluster": {"security": {"runAsUser": None, "runAsGroup": None}},
}
ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}


@pytest.fixture(params=VARIETY.values(), ids=VARIETY)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Values of several kinds."""
    found: dict[str, Any] = request.param
    return found


def test_every_pod_is_restricted(values: dict[str, Any]) -> None:
    """Pod Security `restricted` admits every pod, those of helm test and of Redis too."""
    pods = render(values).pods()
    assert len(pods) >= 4
    for name, _, pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"].get("runAsUser") != 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod), name
        for volume in pod.get("volumes", ()):
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES | {"secret"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_labels_for_all_are_on_everything() -> None:
    """On every object and every pod, those of Redis and of helm test too; a pod's own go before them."""
    values = {"global": {"commonLabels": {"team": "shop", "tier": "1"}}, "profile": {"podLabels": {"tier": "2"}}}
    rendered = render(merged(VARIETY["faults"], values))
    for found in rendered.objects:
        assert found["metadata"]["labels"]["team"] == "shop", found["metadata"]["name"]
    tiers = {name: metadata["labels"]["tier"] for name, metadata, _ in rendered.pods()}
    assert tiers.pop("demo-profile") == "2"
    assert len(tiers) == 5
    assert set(tiers.values()) == {"1"}


def test_images_are_read_only_and_tmp_is_not() -> None:
    """No process can change its program; there is a small place for files."""
    for name, _, pod in render(VARIETY["faults"]).pods():
        [container] = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert any("emptyDir" in volume and volume["name"] in mounts for volume in pod["volumes"]), name


def test_no_pod_has_a_token(values: dict[str, Any]) -> None:
    """Neither a ServiceAccount nor a pod asks for one, and each service has an account of its own."""
    rendered = render(values)
    for account in rendered.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, _, pod in rendered.pods():
        assert pod["automountServiceAccountToken"] is False, name
    accounts = {rendered.pod(f"demo-{service}")["serviceAccountName"] for service in SERVICES}
    assert accounts == {account["metadata"]["name"] for account in rendered.all("ServiceAccount")} - {"demo-redis"}


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_the_process_only(service: str) -> None:
    """Startup and liveness ask whether it answers, readiness whether it wants requests: on its own port, no host."""
    container = render().container(f"demo-{service}")
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    assert "http" in {port["name"] for port in container["ports"]}


def test_liveness_is_slower_to_judge_than_readiness() -> None:
    """A pod leaves its Service long before it is restarted."""
    container = render().container("demo-profile")
    live, ready = (container[probe] for probe in ("livenessProbe", "readinessProbe"))
    assert live["periodSeconds"] * live["failureThreshold"] > 3 * ready["periodSeconds"] * ready["failureThreshold"]


@pytest.mark.parametrize(
    ("server", "seconds"),
    [
        ({}, 3 + 5 + 15 + 5 + 5),
        ({"preStopSeconds": 10, "drainSeconds": 0.5, "shutdownSeconds": 30.2}, 51),
        ({"drainSeconds": 0}, 28),
    ],
)
def test_the_grace_period_covers_the_end(server: dict[str, float], seconds: int) -> None:
    """It is the sum of the sleep, the drain, requests under way, the last telemetry and slack, rounded up."""
    rendered = render({"server": server})
    for service in SERVICES:
        assert rendered.pod(f"demo-{service}")["terminationGracePeriodSeconds"] == seconds
        sleep = rendered.container(f"demo-{service}")["lifecycle"]["preStop"]
        assert sleep == {"sleep": {"seconds": server.get("preStopSeconds", 3)}}


def test_selectors_find_their_pods_and_no_others(values: dict[str, Any]) -> None:
    """Each Deployment, Service and PodDisruptionBudget finds the pods of one component of this release."""
    rendered = render(values)
    labels = {name: metadata["labels"] for name, metadata, _ in rendered.pods()}
    for found in rendered.all("Deployment", "Service", "PodDisruptionBudget"):
        selector = found["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        assert selector["app.kubernetes.io/instance"] == "demo"
        hit = {name for name, own in labels.items() if selector.items() <= own.items()}
        assert hit == {found["metadata"]["name"].removesuffix("-pods")}


def test_everything_is_labelled(values: dict[str, Any]) -> None:
    """Each object says what it belongs to; a selector has nothing that a new version changes."""
    for found in render(values).objects:
        labels = found["metadata"]["labels"]
        for part in ("name", "instance", "component", "part-of", "version", "managed-by"):
            assert labels[f"app.kubernetes.io/{part}"], found["metadata"]["name"]
        assert labels["helm.sh/chart"]
    for found in render(values).all("Deployment"):
        selector = set(found["spec"]["selector"]["matchLabels"])
        assert selector == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_a_changed_setting_rolls_the_pods_it_concerns() -> None:
    """The checksum of the configuration stands on the pods: another threshold rolls profile, and profile only."""
    before, after = render(), render({"profile": {"breaker": {"failureRate": 0.25}}})
    for service in (*SERVICES, "redis"):
        one, other = (each.one("Deployment", f"demo-{service}")["spec"]["template"] for each in (before, after))
        assert (one != other) == (service == "profile"), service


def test_pods_are_rolled_without_a_gap() -> None:
    """A new pod is ready before an old one goes."""
    for service in SERVICES:
        strategy = render().one("Deployment", f"demo-{service}")["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_pods_spread_as_far_as_it_goes() -> None:
    """Over the nodes by default, never so strictly that a pod is not placed; one's own constraints go before."""
    for service in SERVICES:
        [spread] = render().pod(f"demo-{service}")["topologySpreadConstraints"]
        assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
        assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == service
    own = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
    rendered = render({"auth": {"topologySpreadConstraints": own}})
    assert rendered.pod("demo-auth")["topologySpreadConstraints"] == own


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_named_by_digest_tag_or_version(service: str) -> None:
    """A digest beats the tag, a tag the chart's version; the registry stands before all."""
    digest = f"sha256:{'0' * 64}"

    def image(**own: str) -> str:
        rendered = render({"global": {"imageRegistry": "registry.test"}, service: {"image": own}})
        name: str = rendered.container(f"demo-{service}")["image"]
        return name

    assert image() == f"registry.test/commontrip/{service}:0.1.0"
    assert image(tag="dev") == f"registry.test/commontrip/{service}:dev"
    assert image(tag="dev", digest=digest) == f"registry.test/commontrip/{service}@{digest}"


def test_pull_secrets_reach_every_pod() -> None:
    """Those for all go to Redis and helm test too, those of the services to the services."""
    rendered = render({"global": {"imagePullSecrets": ["all", "both"]}, "imagePullSecrets": ["both", "own"]})
    for name, _, pod in rendered.pods():
        names = {secret["name"] for secret in pod["imagePullSecrets"]}
        assert names == ({"all", "both"} if name == "demo-redis" else {"all", "both", "own"})


def test_what_users_add_is_there() -> None:
    """Variables, volumes, labels, annotations and places of one's own reach the pod."""
    extra: dict[str, Any] = {
        "extraEnv": [{"name": "LOG_LEVEL", "value": "DEBUG"}],
        "extraEnvFrom": [{"configMapRef": {"name": "demo-profile"}}],
        "extraVolumes": [{"name": "people", "configMap": {"name": "people"}}],
        "extraVolumeMounts": [{"name": "people", "mountPath": "/people"}],
        "podLabels": {"team": "a"},
        "podAnnotations": {"note": "b"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "command": ["python"],
        "args": ["-m", "apps.service"],
    }
    rendered = render({"profile": extra})
    pod, container = rendered.pod("demo-profile"), rendered.container("demo-profile")
    assert rendered.environment("demo-profile")["LOG_LEVEL"] == "DEBUG"
    assert extra["extraEnvFrom"][0] in container["envFrom"]
    assert extra["extraVolumes"][0] in pod["volumes"]
    assert extra["extraVolumeMounts"][0] in container["volumeMounts"]
    metadata = rendered.one("Deployment", "demo-profile")["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["annotations"]["note"] == "b"
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[key] == extra[key]
    assert (container["command"], container["args"]) == (extra["command"], extra["args"])


def test_no_list_has_two_of_one_name(values: dict[str, Any]) -> None:
    """Server-side apply refuses a list in which a name stands twice."""
    full: dict[str, Any] = {"auth": {"token": {"existingSecret": "t"}}, "telemetry": {"otlpEndpoint": "http://c:4318"}}
    full["profile"] = {"extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "mine"}, {"name": "X", "value": "1"}]}
    assert render(merged(values, full)).environment("demo-profile")["OTEL_SERVICE_NAME"] == "mine"
    for _, _, pod in render(merged(values, full)).pods():
        [container] = pod["containers"]
        for some in (container.get("env", []), container.get("ports", []), pod["volumes"], container["volumeMounts"]):
            names = [each["name"] for each in some]
            assert len(names) == len(set(names))
