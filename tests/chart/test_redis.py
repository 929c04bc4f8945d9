"""Where the services find Redis, the chart's own or another, and how the password gets to them."""

import base64
import hashlib
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
