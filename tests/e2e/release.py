"""A release of the chart, and what can be asked of it."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.caller import Caller
from tests.e2e.kubernetes import Done, Namespace, Object, until

ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "charts/commontrip")
TAG = os.environ.get("E2E_TAG", "dev")
"""Of the three images, which the nodes must have."""
SERVICES = ("gateway", "profile", "auth")
PROBES = 3
LEASE = 8.0  # s
BREAKER = {
    "minimumCalls": 10,
    "windowSeconds": 5,
    "cooldownSeconds": 2,
    "cooldownFactor": 1,
    "cooldownJitter": 0,
    "probes": PROBES,
    "successRatio": 1,  # so that the place of a killed replica's probe has to be filled again
    "probeLeaseSeconds": LEASE,
}
VALUES: Object = {
    **{service: {"image": {"tag": TAG}} for service in SERVICES},
    "profile": {"image": {"tag": TAG}, "auth": {"timeoutSeconds": 20}, "breaker": BREAKER},
    "auth": {"image": {"tag": TAG}, "faults": {"enabled": True}},
}


def merged(first: Object, second: Object) -> Object:
    """Return the first values with the second laid over them."""
    both = dict(first)
    for key, value in second.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


class Release:
    """One release, with a caller beside it: what it sees is what clients in the cluster see."""

    def __init__(self, namespace: Namespace, name: str, values: Object | None = None) -> None:
        self.namespace, self.name = namespace, name
        self.values = merged(VALUES, values or {})
        self._caller: Caller | None = None

    @property
    def caller(self) -> Caller:
        """The pod beside it from which it is asked."""
        if self._caller is None:
            labels = caller_labels(self.name)
            self._caller = Caller(self.namespace, f"{self.name}-caller", f"commontrip/profile:{TAG}", labels)
        return self._caller

    def close_caller(self) -> None:
        """Remove that pod, if there is one."""
        if self._caller:
            self._caller.close()
            self._caller = None

    # -- helm

    def install(self) -> Done:
        """Install it, and wait until it is ready."""
        return self.namespace.helm("install", self.name, CHART, "--wait", "--timeout", "90s", values=self.values)

    def upgrade(self, values: Object, *words: str, check: bool = True) -> Done:
        """Lay values over those it was installed with, and wait until all has rolled."""
        command = ("upgrade", self.name, CHART, "--wait", "--timeout", "90s", *words)
        return self.namespace.helm(*command, values=merged(self.values, values), check=check)

    def uninstall(self) -> Done:
        """Remove it, and wait until its pods are gone."""
        return self.namespace.helm("uninstall", self.name, "--wait", "--timeout", "90s", check=False)

    # -- objects

    def selector(self, component: str = "") -> str:
        """Return what finds the objects of the release, or of a component."""
        more = f",app.kubernetes.io/component={component}" if component else ""
        return f"app.kubernetes.io/instance={self.name}{more}"

    def pods(self, component: str) -> list[Object]:
        """Return the pods of a component that are ready and shall not end."""
        return [pod for pod in self.all_pods(component) if "deletionTimestamp" not in pod["metadata"] and ready(pod)]

    def all_pods(self, component: str) -> list[Object]:
        """Return those that end, too."""
        found: list[Object] = self.namespace.get("pods", selector=self.selector(component))
        return found

    def scale(self, component: str, replicas: int) -> float:
        """Set the number of replicas; return the seconds until so many are ready and no other is left in service."""
        deployment = f"deployment/{self.name}-{component}"
        self.namespace.kubectl("scale", deployment, f"--replicas={replicas}")
        return until(f"{replicas} pods of {component}", lambda: len(self.pods(component)) == replicas, 40)

    def restart(self, *components: str) -> None:
        """Replace the pods one by one, and wait until the old ones are gone."""
        for component in components:
            self.namespace.kubectl("rollout", "restart", f"deployment/{self.name}-{component}")
        for component in components:
            self.namespace.kubectl("rollout", "status", f"deployment/{self.name}-{component}", "--timeout=90s")
        self.settle(*components)

    def settle(self, *components: str) -> None:
        """Wait until no pod is ending."""

        def ending() -> list[str]:
            found = [pod for component in components for pod in self.all_pods(component)]
            return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" in pod["metadata"]]

        until(f"the old pods of {', '.join(components)} to be gone", lambda: not ending(), 60)

    # -- the services

    def url(self, component: str, path: str) -> str:
        """Return an address behind a Service."""
        return f"http://{self.name}-{component}:{ {'gateway': 8080, 'profile': 8081, 'auth': 8082}[component] }{path}"

    @property
    def user(self) -> str:
        """The address that clients ask."""
        return self.url("gateway", "/profile/ada")

    def each(self, component: str, path: str, pods: list[Object] | None = None) -> dict[str, Any]:
        """Ask every pod of a component, or these, at the same moment; who does not answer is not in it."""
        port = {"profile": 8081, "auth": 8082}[component]
        pods = self.pods(component) if pods is None else pods
        places = {pod["metadata"]["name"]: f"http://{pod['status']['podIP']}:{port}{path}" for pod in pods}
        answers = self.caller.get(*places.values())
        return {name: found.body for name, found in zip(places, answers, strict=True) if found.status == 200}

    def fleet(self, pods: list[Object] | None = None) -> dict[str, Object]:
        """Return what each replica of profile knows of the breaker, by the pod's name."""
        return {name: breakers[0] for name, breakers in self.each("profile", "/breakers", pods).items()}

    def agreed(self, state: str = "", pods: list[Object] | None = None) -> bool:
        """Whether all replicas see one epoch, in that state."""
        fleet = self.fleet(pods)
        seen = {(known["state"], known["epoch"]) for known in fleet.values()}
        return len(seen) == 1 and state in ("", *(now for now, _ in seen)) and bool(fleet)

    def await_agreement(self, state: str, within: float = 20.0) -> float:
        """Return the seconds until they do."""
        pods = self.pods("profile")
        return until(f"all replicas of {self.name} to be {state}", lambda: self.agreed(state, pods), within)

    def await_reunion(self) -> float:
        """Return the seconds until all replicas are back at Redis and closed; each is used, as none else looks."""
        pods = self.pods("profile")

        def together() -> bool:
            self.each("profile", "/profile/ada", pods)
            return self.agreed("CLOSED", pods) and not self.alone(pods)

        return until(f"all replicas of {self.name} to be closed, and none alone", together, 30)

    def transitions(self) -> list[Object]:
        """Return the last transitions, as the fleet has them, the latest first."""
        [answer] = self.caller.get(self.url("profile", "/breakers/auth/transitions"))
        assert answer.status == 200, answer
        found: list[Object] = answer.body["transitions"]
        return found

    def asked(self) -> Counter[str]:
        """Return how often each replica has asked auth, as auth counted it."""
        reports = self.each("auth", "/stats").values()
        return sum((Counter(report["by_replica"]) for report in reports), Counter())

    # -- trouble

    @contextmanager
    def fault(self, **fault: Any) -> Iterator[None]:
        """Make auth fail while this is entered."""
        self.order_fault(**fault)
        try:
            yield
        finally:
            self.heal()

    def order_fault(self, **fault: Any) -> None:
        """Make auth fail, for a minute at most; every replica of it knows when this returns."""
        self._order("PUT", {"expires_seconds": 60, **fault})
        self._await_fault(fault["kind"])

    def heal(self) -> None:
        """Take the fault back; every replica of auth knows when this returns."""
        self._order("DELETE")
        self._await_fault(None)

    def _order(self, method: str, fault: Object | None = None) -> None:
        # A pod that is ready is behind its Service a moment later.
        place = self.url("auth", "/faults")
        until("auth to take an order", lambda: self.caller.send(method, place, fault).status == 200, 5)

    def _await_fault(self, kind: str | None) -> None:
        pods = self.pods("auth")

        def known() -> bool:
            faults = self.each("auth", "/faults", pods).values()
            return {fault["kind"] if fault else None for fault in faults} == {kind}

        until(f"auth to know the fault {kind}", known, 5)

    def open_circuit(self, seconds: int) -> None:
        """Have the fleet open its circuit for so many seconds, as auth's Retry-After asks."""
        fault = self.fault(kind="error", retry_after_seconds=seconds)
        with self.caller.load(self.user) as load, fault:
            self.await_agreement("OPEN")
        assert load.failures == []
        assert load.longest < 2, f"a request took {load.longest:.1f} s"

    def await_loneliness(self) -> None:
        """Wait until every replica, each of them in use, knows that Redis is away."""
        pods = self.pods("profile")

        def alone() -> bool:
            self.each("profile", "/profile/ada", pods)
            return self.alone(pods) == {pod["metadata"]["name"] for pod in pods}

        until("all replicas to be in local mode", alone, 10)

    def alone(self, pods: list[Object] | None = None) -> set[str]:
        """Return the replicas of profile that have to answer by themselves what the fleet knows."""
        told = self.each("profile", "/breakers/auth", pods)
        return {name for name, known in told.items() if known["source"] == "replica"}

    def redis(self, *words: str) -> str:
        """Say something to the release's own Redis."""
        place = f"deployment/{self.name}-redis"
        return self.namespace.kubectl("exec", place, "--", "redis-cli", "--user", "commontrip", *words).out.strip()

    def close_circuit(self) -> float:
        """Close it by hand, as an operator would, under load; return the seconds until all replicas know."""
        with self.caller.load(self.user):
            self.redis("SET", "cb:auth:state", "CLOSED")
            return self.await_agreement("CLOSED", within=5)

    def restarts(self) -> dict[str, int]:
        """Return how often containers were restarted, by pod, where that is not 0."""
        pods = self.namespace.get("pods", selector=self.selector())
        counts = {pod["metadata"]["name"]: sum(each["restartCount"] for each in _statuses(pod)) for pod in pods}
        return {name: count for name, count in counts.items() if count}


def ready(pod: Object) -> bool:
    """Whether a pod is in service."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _statuses(pod: Object) -> list[Object]:
    found: list[Object] = pod["status"].get("containerStatuses", [])
    return found


def caller_labels(release: str) -> dict[str, str]:
    """Return the labels of `helm test`'s pods: the network policies let these reach every service."""
    return {
        "app.kubernetes.io/name": "commontrip",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": "test",
    }
