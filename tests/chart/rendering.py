"""The chart as Helm renders it: its objects by kind and name, or the sentence with which it refuses."""

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/commontrip"
REDIS = CHART / "charts/redis"
SERVICES = ("gateway", "profile", "auth")
SECRET = {"redis": {"auth": {"existingSecret": "redis-password"}}}
"""Without it every render would have a new password."""
Object = dict[str, Any]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Rendered:
    """What one render gave."""

    texts: dict[str, str]
    """By template, such as `templates/gateway.yaml`, those of the subchart as `charts/redis/templates/…`."""
    objects: list[Object]

    @property
    def notes(self) -> str:
        """What is printed after an install."""
        return self.texts["templates/NOTES.txt"]

    def all(self, *kinds: str) -> list[Object]:
        """Return the objects of some kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """Return the one object of this kind and name."""
        [found] = [found for found in self.all(kind) if found["metadata"]["name"] == name]
        return found

    def has(self, kind: str, name: str) -> bool:
        """Whether there is such an object."""
        return any(found["metadata"]["name"] == name for found in self.all(kind))

    def pod(self, name: str) -> Object:
        """Return the pod's spec of a Deployment."""
        spec: Object = self.one("Deployment", name)["spec"]["template"]["spec"]
        return spec

    def container(self, name: str) -> Object:
        """Return the one container of a Deployment."""
        [container] = self.pod(name)["containers"]
        found: Object = container
        return found

    def config(self, name: str) -> dict[str, str]:
        """Return the data of a ConfigMap."""
        data: dict[str, str] = self.one("ConfigMap", name)["data"]
        return data

    def environment(self, name: str) -> dict[str, Any]:
        """Return a Deployment's variables: texts, and what refers to something as the reference."""
        container, found = self.container(name), {}
        for source in container["envFrom"]:
            found |= self.config(source["configMapRef"]["name"])
        return found | {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}

    def pods(self) -> list[tuple[str, Object, Object]]:
        """Return name, metadata and spec of every pod that any object makes."""
        made = [(found["metadata"]["name"], found["spec"]["template"]) for found in self.all("Deployment")]
        bare = [(found["metadata"]["name"], found) for found in self.all("Pod")]
        return [(name, pod["metadata"], pod["spec"]) for name, pod in made + bare]


def render(values: Object | None = None, *, release: str = "demo", chart: Path = CHART) -> Rendered:
    """Render the chart with an existing Secret and these values; raises what Helm raises."""
    secret = SECRET if chart == CHART else SECRET["redis"]
    return _render(json.dumps(merged(secret, values or {})), release, chart)


def without_secret(values: Object | None = None, *, chart: Path = CHART) -> Rendered:
    """Render as a user does who sets nothing."""
    return _render.__wrapped__(json.dumps(values or {}), "demo", chart)


@functools.cache
def _render(values: str, release: str, chart: Path) -> Rendered:
    # A handle that has rendered with redis.enabled=false has lost its subchart: each render loads its own.
    with helm_python.Chart.load(chart) as loaded:
        texts = loaded.render(json.loads(values), name=release, namespace="shop")
    short = {name.split("/", 1)[1]: text for name, text in texts.items() if text.strip()}
    objects = [found for name, text in short.items() if name.endswith(".yaml") for found in load_all(text)]
    return Rendered(short, objects)


def load_all(text: str) -> list[Object]:
    """Return the objects of a YAML text; empty documents are none."""
    return [found for found in yaml.load_all(text, _LOADER) if found]  # a safe loader


def refusal(values: Object, *, chart: Path = CHART) -> str:
    """Return with which words the render stops."""
    try:
        render(values, chart=chart)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError(f"{values} are rendered")


def merged(one: Object, other: Object) -> Object:
    """Return both, the other's values before the one's, as Helm does it."""
    result = copy.deepcopy(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def nested(path: str, value: Any) -> Object:
    """Return `{"a": {"b": value}}` for `a.b`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    found: Object = value
    return found


@functools.cache
def schema(chart: Path = CHART) -> Object:
    """Return the schema of the values."""
    found: Object = json.loads((chart / "values.schema.json").read_text())
    return found


@functools.cache
def defaults(chart: Path = CHART) -> Object:
    """Return the values of values.yaml."""
    [found] = load_all((chart / "values.yaml").read_text())
    return found
