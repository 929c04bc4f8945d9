"""Releases beside the first one: one in its namespace and one elsewhere, on one Redis that is neither's."""

from collections.abc import Callable

from tests.e2e.kubernetes import Done, Namespace, Object
from tests.e2e.release import Release, merged

_SMALL: Object = {"gateway": {"replicas": 1}, "profile": {"replicas": 2}, "auth": {"replicas": 1}}


def shared_redis(namespace: Namespace) -> str:
    """Run a Redis that is nobody's; return its host."""
    labels = {"app": "shared-redis"}
    container = {
        "name": "redis",
        "image": "redis:8.0",
        "command": ["redis-server", "--save", "", "--protected-mode", "no"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"automountServiceAccountToken": False, "securityContext": security, "containers": [container]}
    metadata = {"name": "shared-redis", "labels": labels}
    service = {"selector": labels, "ports": [{"port": 6379}]}
    namespace.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    )
    namespace.kubectl("wait", "--for=condition=Ready", "pod/shared-redis", "--timeout=60s")
    return f"shared-redis.{namespace.name}"


def install(namespace: Namespace, elsewhere: Namespace, make: Callable[[Release], Done]) -> tuple[Release, Release]:
    """Install both, each with a prefix of its own."""
    host = shared_redis(namespace)
    found = []
    for place, name in ((namespace, "beside"), (elsewhere, "demo")):
        outer = {"redis": {"enabled": False}, "externalRedis": {"host": host, "prefix": f"{name}-{place.name}"}}
        release = Release(place, name, merged(_SMALL, outer))
        done = make(release)
        assert f"externalRedis.prefix={name}-{place.name}" in done.out
        found.append(release)
    return found[0], found[1]
