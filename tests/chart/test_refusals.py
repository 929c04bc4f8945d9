"""Wrong values stop before anything is installed, with words that name the value."""

from typing import Any

import helm_python
import pytest

from commontrip.redis import RedisStore
from tests.chart.rendering import CHART, REDIS, nested, refusal, render
from tests.chart.values import groups

_INSTANCE = "app.kubernetes.io/instance"
_OUTSIDE = {"redis": {"enabled": False}}


def _outer(**outer: Any) -> dict[str, Any]:
    return {**_OUTSIDE, "externalRedis": outer}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"externalRedis": {"host": "r.test"}},
            "redis.enabled and externalRedis.host are both set: say redis.enabled=false to use the external Redis",
        ),
        (_OUTSIDE, "no Redis: set redis.enabled=true, or say where one is by one of externalRedis.url"),
        (_outer(host="a", url="redis://b"), "externalRedis.url and externalRedis.host are set: one of them says"),
        (_outer(url="redis://:pw@b"), "externalRedis.url must hold neither user nor password: put the whole address"),
        (_outer(url="htp://b"), "externalRedis.url must be redis://host:port/database"),
        (_outer(url="redis://b?password=pw"), "externalRedis.url must hold no password"),
        (_outer(url="redis://b:70000"), "externalRedis: a port is 1 to 65535, not 70000"),
        (_outer(cluster={"nodes": ["a:0"]}), "externalRedis: a port is 1 to 65535, not 0"),
        (_outer(urlKey="url"), "externalRedis.urlKey names a key, but externalRedis.existingSecret names no Secret"),
        (_outer(host="a", usernameKey="u"), "externalRedis.usernameKey names a key, but"),
        (_outer(sentinel={"hosts": ["a:1"]}), "externalRedis.sentinel.masterName is missing"),
        (_outer(url="redis://a", tls={"enabled": True}), "externalRedis.tls.enabled does nothing where the address"),
        (_outer(host="a", tls={"certKey": "c"}), "externalRedis.tls.certKey needs tls.keyKey and tls.existingSecret"),
        (
            nested("profile.breaker", {"cooldownSeconds": 200}),
            "profile.breaker.cooldownMaximumSeconds (120) must be at least cooldownSeconds (200)",
        ),
        (
            nested("profile.breaker", {"probeLimitSeconds": 1}),
            "profile.breaker.probeLimitSeconds (1) must be at least probeLeaseSeconds (5)",
        ),
        (nested("profile.breaker.failureRate", 0), "the breaker would never open: one of profile.breaker.failureRate"),
        (
            nested("auth.autoscaling", {"enabled": True, "minReplicas": 11}),
            "auth.autoscaling.minReplicas (11) must be at most maxReplicas (10)",
        ),
        (
            nested("profile", {"serviceAccount": {"name": "one"}})
            | nested("auth", {"serviceAccount": {"name": "one"}}),
            "auth.serviceAccount.name (one) is made for another service already: say auth.serviceAccount.create=false",
        ),
        (nested("serviceMonitor.timeoutSeconds", 20), "serviceMonitor.timeoutSeconds (20) must be at most intervalSec"),
        (nested("server.metricsPort", 8081), "profile.port and server.metricsPort are both 8081"),
        (nested("gateway.service.nodePort", 30080), "gateway.service.nodePort needs gateway.service.type=NodePort"),
        (nested("gateway.httpRoute.enabled", value=True), "gateway.httpRoute.parentRefs is missing"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    """It names the values and the fix."""
    assert sentence in refusal(values)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis:///0", "redis://h:abc", "redis://h:", "redis://h/x", "redis://h/0/1", "redis://a b"),
        *("redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h:x/m", "redis+sentinel://,/m"),
        *("redis+cluster://h:1/3", "redis+cluster://h,", "redis+cluster://h?db=1", "htp://b", "unix:///socket"),
    ],
)
def test_what_is_no_address_of_redis_is_refused(url: str) -> None:
    """What the services would refuse when they start is refused before: nothing is installed that cannot run."""
    assert "externalRedis.url must be redis://host:port/database" in refusal(_outer(url=url))


@pytest.mark.parametrize(
    "outer",
    [
        {"url": "redis://h"},
        {"url": "rediss://h.test:6380/2?ssl_cert_reqs=none"},
        {"url": "redis://[fd00::1]:6380/0"},
        {"url": "redis+sentinel://a,b:26380/main?db=1"},
        {"url": "rediss+cluster://a:7001,b"},
        {"host": "[fd00::1]"},
        {"sentinel": {"hosts": ["a", "[fd00::1]:26379"], "masterName": "main"}},
        {"cluster": {"nodes": ["a", "b:7001"]}},
    ],
)
def test_what_is_an_address_of_redis_is_taken_by_the_services(outer: dict[str, Any]) -> None:
    """The address that a service is told is one that the library takes."""
    RedisStore.from_url(render(_outer(**outer)).environment("demo-profile")["REDIS_URL"])


@pytest.mark.parametrize(
    ("release", "values", "way_out"),
    [("1a", {}, "fullnameOverride"), ("a.b", {"fullnameOverride": "ab"}, "redis.fullnameOverride")],
)
def test_a_release_whose_name_no_service_can_have_is_refused(
    release: str, values: dict[str, Any], way_out: str
) -> None:
    """Helm takes names that begin with a digit or have a dot; Services do not."""
    with pytest.raises(helm_python.HelmError, match=rf"cannot be a Service's name.*or set {way_out}"):
        render(values, release=release)
    rendered = render({"fullnameOverride": "ab", "redis": {"fullnameOverride": "ab-redis"}}, release=release)
    assert {found["metadata"]["labels"]["app.kubernetes.io/instance"] for found in rendered.objects} == {release}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"profil": {}}, "additional properties 'profil' not allowed"),
        (nested("profile.breaker.failurRate", 0.5), "'/profile/breaker': additional properties 'failurRate' not"),
        (nested("profile.breaker.failureRate", -1), "'/profile/breaker/failureRate': minimum: got -1, want 0"),
        (nested("profile.breaker.failureRate", "0.5"), "'/profile/breaker/failureRate': got string, want number"),
        (nested("profile.breaker.minimumCalls", 0), "'/profile/breaker/minimumCalls': minimum: got 0, want 1"),
        (nested("profile.auth.url", "auth:8082"), "'/profile/auth/url': 'auth:8082' does not match pattern"),
        (nested("gateway.routes", {"profile": ["http://a"]}), "'/gateway/routes': additional properties 'profile'"),
        (nested("gateway.routes", {"/a": ["http://a;b"]}), "'/gateway/routes/~1a/0': 'http://a;b' does not match"),
        (nested("telemetry.otlpEndpoint", "collector:4318"), "'/telemetry/otlpEndpoint'"),
        (nested("profile.fallback.answer", "none"), "'/profile/fallback/answer': value must be one of 'stale'"),
        (nested("auth.image.digest", "latest"), "'/auth/image/digest'"),
        (nested("externalRedis.prefix", "a:b"), "'/externalRedis/prefix'"),
        (nested("redis.prefix", "a:b"), "'/prefix'"),
        (nested("redis.evict", value=True), "additional properties 'evict' not allowed"),
        (nested("redis.auth.username", "a b"), "'/auth/username'"),
        (nested("redis.persistence.size", "5K"), "'/persistence/size': '5K' does not match pattern"),
        (_outer(host="redis://r"), "'/externalRedis/host': 'redis://r' does not match pattern"),
        (_outer(host="r:6380"), "'/externalRedis/host'"),
        (_outer(host="u:pw@r"), "'/externalRedis/host'"),
        (_outer(host="fd00::1"), "'/externalRedis/host'"),
        (_outer(sentinel={"hosts": ["u:p@a:1"], "masterName": "m"}), "'/externalRedis/sentinel/hosts/0'"),
        (_outer(cluster={"nodes": ["a:b"]}), "'/externalRedis/cluster/nodes/0'"),
        (nested("profile.auth.url", "http://a b"), "'/profile/auth/url'"),
        (nested("profile.auth.url", "http://me:pw@a"), "'/profile/auth/url'"),
        (nested("gateway.routes", {"/a": ["http://a?x=1"]}), "'/gateway/routes/~1a/0'"),
        (nested("telemetry.resourceAttributes", {"a": "b,c=d"}), "'/telemetry/resourceAttributes/a'"),
        (
            nested("global.commonLabels", {_INSTANCE: "x"}),
            "'/global/commonLabels/app.kubernetes.io~1instance': false schema",
        ),
        (
            nested("profile.podLabels", {_INSTANCE: "x"}),
            "'/profile/podLabels/app.kubernetes.io~1instance': false schema",
        ),
        (nested("redis.podLabels", {_INSTANCE: "x"}), "'/podLabels/app.kubernetes.io~1instance': false schema"),
    ],
)
def test_what_is_no_value_is_refused_by_the_schema(values: dict[str, Any], words: str) -> None:
    """Unknown keys, wrong types and numbers out of range, by their path; the subchart's too."""
    assert words in refusal(values)


@pytest.mark.parametrize("chart", [CHART, REDIS], ids=lambda chart: chart.name)
def test_every_group_is_closed(chart: Any) -> None:
    """No misspelt key is passed over; only `global` and what the subchart checks itself are open."""
    for path, node in groups(chart):
        assert node.get("additionalProperties", path == "redis") is (path in ("global", "redis")), path


def test_the_subchart_takes_what_the_chart_around_it_adds() -> None:
    """Helm gives a subchart `global`, and `enabled` from the condition."""
    assert render({"enabled": True, "global": {"imageRegistry": "r.test", "other": 1}}, chart=REDIS).objects


def test_the_sums_need_no_room() -> None:
    """Fractions and whole numbers compare alike: a cooldown equal to its maximum is taken."""
    assert render(nested("profile.breaker", {"cooldownSeconds": 2.5, "cooldownMaximumSeconds": 2.5})).objects
