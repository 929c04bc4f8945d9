"""Where the services find Redis, the chart's own or another, and how the password gets to them."""

import base64
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import REDIS, Rendered, merged, render, without_secret

FAULTS = {"auth": {"faults": {"enabled": True}}}


def _outer(**outer: Any) -> Rendered:
    return render(merged(FAULTS, {"redis": {"enabled": False}, "externalRedis": outer}))


def _secret(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


@pytest.mark.parametrize("name", ["", "memory"])
def test_the_services_find_the_charts_own_redis(name: str) -> None:
    """By the Service's name, with its user, prefix and the Secret it has itself."""
    rendered = render(merged(FAULTS, {"redis": {"fullnameOverride": name, "prefix": "shop", "port": 7000}}))
    server = rendered.container(name or "demo-redis")
    [password] = [each["valueFrom"] for each in server["env"] if each["name"] == "REDISCLI_AUTH"]
    for service in ("demo-profile", "demo-auth"):
        told = rendered.environment(service)
        assert told["REDIS_URL"] == f"redis://{name or 'demo-redis'}:7000/0"
        assert told["REDIS_USERNAME"] == "commontrip"
        assert told["REDIS_PASSWORD"] == password == _secret("redis-password", "password")
        assert told["REDIS_PREFIX"] == "shop"
    assert "~shop:*" in rendered.config(name or "demo-redis")["users.acl"]
    assert rendered.one("Service", name or "demo-redis")["spec"]["ports"][0]["port"] == 7000


def test_a_generated_password_is_one_for_all() -> None:
    """Redis and its clients are rolled by the same checksum, and only for the password that is in the Secret."""
    rendered = without_secret(FAULTS)
    [secret] = rendered.all("Secret")
    password = base64.b64decode(secret["data"]["password"])
    assert len(password) == 32
    for name in ("demo-redis", "demo-profile", "demo-auth"):
        metadata = rendered.one("Deployment", name)["spec"]["template"]["metadata"]
        assert metadata["annotations"]["checksum/password"] == hashlib.sha256(password).hexdigest()
    assert rendered.environment("demo-profile")["REDIS_PASSWORD"] == _secret("demo-redis", "password")


def test_an_image_by_tag_and_digest_makes_a_label_that_kubernetes_takes() -> None:
    """A label has no @ and no more than 63 characters; the image is what was said."""
    tag = f"8.0-{'x' * 70}@sha256:{'0' * 64}"
    rendered = render({"redis": {"image": {"tag": tag}}})
    assert rendered.container("demo-redis")["image"] == f"redis:{tag}"
    assert rendered.one("Deployment", "demo-redis")["metadata"]["labels"]["app.kubernetes.io/version"] == tag[:63]


@pytest.mark.parametrize(
    ("answer", "alive", "ready"),
    [
        ("PONG", True, True),
        ("LOADING Redis is loading the dataset in memory", True, False),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            True,
            False,
        ),
        ("BUSY Redis is busy running a script.", True, False),
        ("NOAUTH Authentication required.", False, False),
        ("Could not connect to Redis at 127.0.0.1:6379: Connection refused", False, False),
    ],
)
def test_redis_is_restarted_only_for_what_a_restart_mends(
    tmp_path: Path, answer: str, *, alive: bool, ready: bool
) -> None:
    """A server that loads its file, cannot write it, or runs a script is alive, and gets no new requests."""
    client = tmp_path / "redis-cli"
    client.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    client.chmod(0o755)
    rendered, found = render(), {}
    for name in ("alive", "ready"):
        command = ["sh", "-c", rendered.config("demo-redis")[f"{name}.sh"]]
        done = subprocess.run(command, env={"PATH": f"{tmp_path}:{os.defpath}"}, timeout=10, check=False)
        found[name] = done.returncode == 0
    assert found == {"alive": alive, "ready": ready}
    probes = rendered.container("demo-redis")
    asked = {kind: probes[f"{kind}Probe"]["exec"]["command"][-1] for kind in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": "/etc/redis/alive.sh",
        "liveness": "/etc/redis/alive.sh",
        "readiness": "/etc/redis/ready.sh",
    }


def test_no_two_generated_passwords_are_the_same() -> None:
    """Each install has a password of its own."""
    one, other = (without_secret().one("Secret", "demo-redis")["data"] for _ in range(2))
    assert one != other


def test_with_a_secret_of_ones_own_none_is_made() -> None:
    """And every render is the same."""
    assert render().all("Secret") == []
    values = {"redis": {"auth": {"existingSecret": "mine"}}}
    assert without_secret(values).texts == without_secret(values).texts


@pytest.mark.parametrize(
    ("outer", "address"),
    [
        ({"host": "r.test"}, "redis://r.test:6379/0"),
        ({"host": "r.test", "port": 7000, "database": 3, "tls": {"enabled": True}}, "rediss://r.test:7000/3"),
        ({"url": "rediss://r.test:6380/1"}, "rediss://r.test:6380/1"),
        (
            {"sentinel": {"hosts": ["a:26379", "b:26379"], "masterName": "main"}},
            "redis+sentinel://a:26379,b:26379/main?db=0",
        ),
        ({"cluster": {"nodes": ["a:1", "b:2"]}, "tls": {"enabled": True}}, "rediss+cluster://a:1,b:2"),
        (
            {
                "host": "r.test",
                "tls": {"enabled": True, "existingSecret": "tls", "certKey": "tls.crt", "keyKey": "tls.key"},
            },
            (
                "rediss://r.test:6379/0?ssl_certfile=/etc/commontrip/redis/tls.crt"
                "&ssl_keyfile=/etc/commontrip/redis/tls.key"
            ),
        ),
    ],
)
def test_an_external_redis_has_the_address_that_its_values_say(outer: dict[str, Any], address: str) -> None:
    """Alone, behind Sentinel or a Cluster, with TLS or without; and the service can read it."""
    rendered = _outer(**outer, username="shop", existingSecret="x")
    for service in ("demo-profile", "demo-auth"):
        told = rendered.environment(service)
        assert told["REDIS_URL"] == address
        assert told["REDIS_USERNAME"] == "shop"
        assert told["REDIS_PASSWORD"] == _secret("x", "password")
    assert not any("redis" in found["metadata"]["name"] for found in rendered.objects)


def test_an_address_with_its_password_stays_in_its_secret() -> None:
    """The whole address, and the user, may come from the Secret; nothing of it is in a ConfigMap."""
    rendered = _outer(existingSecret="x", urlKey="url", usernameKey="user", passwordKey="")
    told = rendered.environment("demo-profile")
    assert told["REDIS_URL"] == _secret("x", "url")
    assert told["REDIS_USERNAME"] == _secret("x", "user")
    assert "REDIS_PASSWORD" not in told
    assert not {"REDIS_URL", "REDIS_USERNAME"} & set(rendered.config("demo-profile"))


def test_without_a_secret_there_is_no_password() -> None:
    """For a Redis that asks for none."""
    assert "REDIS_PASSWORD" not in _outer(host="r.test").environment("demo-profile")


def test_a_ca_is_a_file_that_openssl_reads() -> None:
    """It is known beside the image's own, in every form of address, to whoever talks to Redis and to nobody else."""
    tls = {"enabled": True, "existingSecret": "tls", "caKey": "ca.pem"}
    rendered = _outer(cluster={"nodes": ["a:1"]}, tls=tls)
    assert rendered.environment("demo-profile")["SSL_CERT_FILE"] == "/etc/commontrip/redis/ca.pem"
    assert {"name": "redis", "secret": {"secretName": "tls"}} in rendered.pod("demo-profile")["volumes"]
    mounts = {mount["name"]: mount for mount in rendered.container("demo-profile")["volumeMounts"]}
    assert mounts["redis"] == {"name": "redis", "mountPath": "/etc/commontrip/redis", "readOnly": True}
    assert "SSL_CERT_FILE" not in rendered.environment("demo-gateway")


def test_redis_forgets_nothing_by_itself() -> None:
    """It evicts nothing, has less memory than its container, and keeps its data only where that is asked for."""
    rendered = render()
    lines = rendered.config("demo-redis")["redis.conf"].splitlines()
    assert {"maxmemory 64mb", "maxmemory-policy noeviction", 'save ""', "appendonly no"} <= set(lines)
    assert rendered.container("demo-redis")["resources"]["limits"]["memory"] == "128Mi"
    assert rendered.all("PersistentVolumeClaim") == []
    kept = render({"redis": {"persistence": {"enabled": True, "size": "2Gi", "storageClass": "fast", "keep": True}}})
    assert "appendonly yes" in kept.config("demo-redis")["redis.conf"].splitlines()
    claim = kept.one("PersistentVolumeClaim", "demo-redis")
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "demo-redis"}} in kept.pod("demo-redis")["volumes"]
    mine = render({"redis": {"persistence": {"enabled": True, "existingClaim": "mine"}}})
    assert mine.all("PersistentVolumeClaim") == []
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in mine.pod("demo-redis")["volumes"]


def test_a_new_version_of_the_chart_leaves_redis_alone() -> None:
    """Nothing on its pod changes with the chart's version: it would be replaced, and its memory is gone."""
    metadata = render().one("Deployment", "demo-redis")["spec"]["template"]["metadata"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(metadata["labels"])


def test_the_subchart_stands_alone() -> None:
    """Installed by itself it is what it is inside the other chart."""
    alone = {(found["kind"], found["metadata"]["name"]): found for found in render(chart=REDIS).objects}
    inside = {(found["kind"], found["metadata"]["name"]): found for found in render().objects}
    assert alone
    assert {key: inside[key] for key in alone} == alone
