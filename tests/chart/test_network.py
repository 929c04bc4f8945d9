"""Who may talk to whom, and through which names."""

from typing import Any

import pytest

from tests.chart.rendering import SERVICES, Object, Rendered, render

_PART = "app.kubernetes.io/component"
_PORTS = {"gateway": 8080, "profile": 8081, "auth": 8082}
_NAMES = {("*", 53), ("*", 5353)}
FAULTS = {"auth": {"faults": {"enabled": True}}}


def _peers(rule: Object, key: str) -> set[str]:
    """Return the components that a rule names; `*` for everybody."""
    if key not in rule:
        return {"*"}
    return {peer["podSelector"]["matchLabels"].get(_PART, "label") for peer in rule[key]}


def _rules(rendered: Rendered, name: str, direction: str) -> set[tuple[str, int]]:
    """Return peer and port of all that a policy lets through."""
    key = {"ingress": "from", "egress": "to"}[direction]
    policy = rendered.one("NetworkPolicy", f"demo-{name}")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    rules = policy.get(direction, [])
    return {(peer, port["port"]) for rule in rules for peer in _peers(rule, key) for port in rule["ports"]}


def test_the_call_graph_is_let_through_and_nothing_else() -> None:
    """Client → gateway → profile → auth; profile → Redis; DNS for all; metrics to scrapers."""
    rendered, names = render(), _NAMES
    assert _rules(rendered, "gateway", "ingress") == {("*", 8080), ("*", 9090)}
    assert _rules(rendered, "gateway", "egress") == names | {("profile", 8081)}
    assert _rules(rendered, "profile", "ingress") == {("gateway", 8081), ("test", 8081), ("*", 9090)}
    assert _rules(rendered, "profile", "egress") == names | {("auth", 8082), ("redis", 6379)}
    assert _rules(rendered, "auth", "ingress") == {("profile", 8082), ("test", 8082), ("*", 9090)}
    assert _rules(rendered, "auth", "egress") == names
    assert _rules(rendered, "redis", "ingress") == {("label", 6379)}
    assert _rules(rendered, "redis", "egress") == set()
    assert _rules(rendered, "test", "ingress") == set()
    assert _rules(rendered, "test", "egress") == names | set(_PORTS.items())


def test_auth_gets_to_redis_only_for_faults() -> None:
    """Without faults it needs no Redis: no rule, no label, no password."""
    assert ("redis", 6379) in _rules(render(FAULTS), "auth", "egress")
    assert "REDIS_PASSWORD" in render(FAULTS).environment("demo-auth")
    assert not any(name.startswith("REDIS_") for name in render().environment("demo-auth"))


@pytest.mark.parametrize("name", [None, "memory"])
def test_who_may_use_redis_has_its_label(name: str | None) -> None:
    """The label that Redis's policy asks for stands on profile and auth, whatever Redis is called."""
    rendered = render(FAULTS | ({"redis": {"fullnameOverride": name}} if name else {}))
    policy = rendered.one("NetworkPolicy", name or "demo-redis")
    [source] = policy["spec"]["ingress"][0]["from"]
    label = source["podSelector"]["matchLabels"]
    have = {pod for pod, metadata, _ in rendered.pods() if label.items() <= metadata["labels"].items()}
    assert have == {"demo-profile", "demo-auth"}


def test_the_policies_name_ports_that_are_there() -> None:
    """Ports in rules are those of the containers, where they are set to others too."""
    values: dict[str, Any] = {"profile": {"port": 18081}, "server": {"metricsPort": 19090}}
    rendered = render(values)
    assert _rules(rendered, "gateway", "egress") == _NAMES | {("profile", 18081)}
    assert {port["containerPort"] for port in rendered.container("demo-profile")["ports"]} == {18081, 19090}
    assert _rules(rendered, "profile", "ingress") == {("gateway", 18081), ("test", 18081), ("*", 19090)}


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://collector:4318", 4318), ("https://otlp.test", 443), ("http://otlp.test", 80), ("https://a:1/b", 1)],
)
def test_telemetry_may_leave_where_it_is_sent(endpoint: str, port: int) -> None:
    """The collector's port is let out for all three services; without an endpoint none is."""
    peer = {"namespaceSelector": {}}
    rendered = render({"telemetry": {"otlpEndpoint": endpoint}, "networkPolicy": {"collector": [peer]}})
    for service in SERVICES:
        egress = rendered.one("NetworkPolicy", f"demo-{service}")["spec"]["egress"]
        assert {"ports": [{"port": port, "protocol": "TCP"}], "to": [peer]} in egress


@pytest.mark.parametrize(
    ("outer", "ports"),
    [
        ({"host": "redis.test"}, {6379}),
        ({"host": "redis.test", "port": 7000}, {7000}),
        ({"url": "rediss://redis.test:6380/2"}, {6380}),
        ({"url": "redis://redis.test"}, {6379}),
        ({"urlKey": "url", "existingSecret": "x", "port": 6390}, {6390}),
        ({"sentinel": {"hosts": ["a:26379", "b:26380"], "masterName": "m"}}, {6379, 26379, 26380}),
        ({"sentinel": {"hosts": ["a"], "masterName": "m"}}, {6379, 26379}),
        ({"cluster": {"nodes": ["a:7001", "b:7002"]}}, {6379, 7001, 7002}),
        ({"cluster": {"nodes": ["a"]}, "port": 7000}, {6379, 7000}),
        ({"url": "redis+sentinel://a:26380,b/m?db=1"}, {6379, 26379, 26380}),
        ({"url": "rediss+cluster://a:7001,b:7002", "port": 7001}, {7001, 7002}),
        ({"url": "redis://[fd00::1]:6380/0"}, {6380}),
        ({"url": "redis://[fd00::1]"}, {6379}),
    ],
)
def test_an_external_redis_may_be_reached_at_its_ports(outer: dict[str, Any], ports: set[int]) -> None:
    """Wherever it is, if nothing is said; and there is no Redis of the chart's own."""
    rendered = render({"redis": {"enabled": False}, "externalRedis": outer})
    assert _rules(rendered, "profile", "egress") == _NAMES | {("auth", 8082)} | {("*", port) for port in ports}
    assert not rendered.has("Deployment", "demo-redis")


def test_peers_can_be_narrowed() -> None:
    """Clients, scrapers and an external Redis are whom the values name; helm test is always a client."""
    peer = {"podSelector": {"matchLabels": {_PART: "named"}}}
    values: dict[str, Any] = {
        "gateway": {"networkPolicy": {"clients": [peer], "extraEgress": [{"ports": [{"port": 1, "protocol": "TCP"}]}]}},
        "networkPolicy": {"scrapers": [peer], "redis": [peer]},
        "redis": {"enabled": False},
        "externalRedis": {"host": "redis.test"},
    }
    rendered = render(values)
    assert _rules(rendered, "gateway", "ingress") == {("named", 8080), ("test", 8080), ("named", 9090)}
    assert ("*", 1) in _rules(rendered, "gateway", "egress")
    assert ("named", 6379) in _rules(rendered, "profile", "egress")


def test_policies_can_be_left_out() -> None:
    """Each chart has a switch."""
    rendered = render({"networkPolicy": {"enabled": False}, "redis": {"networkPolicy": {"enabled": False}}})
    assert rendered.all("NetworkPolicy") == []


@pytest.mark.parametrize("release", ["demo", "on", "a" * 53])
@pytest.mark.parametrize("override", ["", "shop-front"])
def test_addresses_lead_to_services_that_exist(release: str, override: str) -> None:
    """Gateway names profile, profile names auth and Redis, as they are called; no name is too long."""
    rendered = render({"fullnameOverride": override}, release=release)
    services = {found["metadata"]["name"]: found["spec"]["ports"][0]["port"] for found in rendered.all("Service")}
    [gateway, profile] = (
        next(name for name in services if name.endswith(f"-{end}") and "pods" not in name)
        for end in ("gateway", "profile")
    )
    routes = rendered.config(gateway)["GATEWAY_ROUTES"]
    told = rendered.config(profile)
    addresses = [routes.removeprefix("/profile="), told["PROFILE_AUTH_URL"], told["REDIS_URL"].removesuffix("/0")]
    for address in addresses:
        name, _, port = address.split("//")[1].partition(":")
        assert services[name] == int(port)
    for found in rendered.objects:
        assert len(found["metadata"]["name"]) <= 63
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == release


def test_a_headless_service_names_each_pod() -> None:
    """Through it every pod can be asked and scraped; the one that clients use shows no metrics."""
    rendered = render()
    for service, port in _PORTS.items():
        each = rendered.one("Service", f"demo-{service}-pods")["spec"]
        assert each["clusterIP"] == "None"
        assert {found["name"]: found["port"] for found in each["ports"]} == {"http": port, "metrics": 9090}
        assert [found["name"] for found in rendered.one("Service", f"demo-{service}")["spec"]["ports"]] == ["http"]


def test_the_gateway_can_have_a_port_of_every_node() -> None:
    """As kind-config.yaml maps it: 30080."""
    service = {"type": "NodePort", "nodePort": 30080}
    spec = render({"gateway": {"service": service}}).one("Service", "demo-gateway")["spec"]
    assert (spec["type"], spec["ports"][0]["nodePort"]) == ("NodePort", 30080)


def test_an_ingress_leads_to_the_gateway() -> None:
    """To its Service, for each host, or for any."""
    values = {"enabled": True, "className": "c", "hosts": ["a.test", "b.test"], "tls": [{"secretName": "s"}]}
    spec = render({"gateway": {"ingress": values}}).one("Ingress", "demo-gateway")["spec"]
    assert [rule["host"] for rule in spec["rules"]] == ["a.test", "b.test"]
    assert spec["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "demo-gateway"
    assert (spec["ingressClassName"], spec["tls"]) == ("c", [{"secretName": "s"}])
    [rule] = render({"gateway": {"ingress": {"enabled": True}}}).one("Ingress", "demo-gateway")["spec"]["rules"]
    assert "host" not in rule


def test_an_httproute_leads_to_the_gateway() -> None:
    """To its Service, from the Gateways named."""
    values = {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.test"]}
    spec = render({"gateway": {"httpRoute": values}}).one("HTTPRoute", "demo-gateway")["spec"]
    assert spec["rules"][0]["backendRefs"] == [{"name": "demo-gateway", "port": 8080}]
    assert (spec["parentRefs"], spec["hostnames"]) == ([{"name": "public"}], ["a.test"])


def test_two_releases_share_nothing() -> None:
    """No object of one has the name of one of the other, and no selector of one finds the other's pods."""
    one, other = render(release="one"), render(release="two")
    names = [{(found["kind"], found["metadata"]["name"]) for found in each.objects} for each in (one, other)]
    assert not names[0] & names[1]
    for found in one.all("Service"):
        for _, metadata, _ in other.pods():
            assert not found["spec"]["selector"].items() <= metadata["labels"].items()
