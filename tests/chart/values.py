"""The values as their schema describes them: one `Value` for each key that may be set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart.rendering import CHART, Object, defaults, schema


@dataclass(frozen=True)
class Value:
    """A leaf of the values."""

    path: str
    node: Object
    """What the schema says of it."""
    default: Any

    @property
    def settings(self) -> list[str]:
        """The environment variables that it becomes."""
        return str(self.node.get("x-setting", "")).split()

    @property
    def text(self) -> str:
        """What it means, with its range."""
        limits = _range(self.node)
        return f"{self.node['description']} ({limits})" if limits else str(self.node["description"])


def leaves(chart: Path = CHART) -> list[Value]:
    """Return all values of a chart, in the schema's order; free-form maps are leaves."""
    return list(_leaves(schema(chart), schema(chart), defaults(chart), ""))


def groups(chart: Path = CHART) -> Iterator[tuple[str, Object]]:
    """Yield every object of the schema that has keys of its own, by path."""
    yield from _groups(schema(chart), schema(chart), "")


def _leaves(root: Object, node: Object, value: Any, path: str) -> Iterator[Value]:
    for key, below in node["properties"].items():
        where, found = f"{path}.{key}".strip("."), resolved(root, below)
        inner = value.get(key) if isinstance(value, dict) else None
        if "properties" in found:
            yield from _leaves(root, found, inner, where)
        else:
            yield Value(where, found, inner)


def _groups(root: Object, node: Object, path: str) -> Iterator[tuple[str, Object]]:
    yield path, node
    for key, below in node["properties"].items():
        found = resolved(root, below)
        if "properties" in found:
            yield from _groups(root, found, f"{path}.{key}".strip("."))


def resolved(root: Object, node: Object) -> Object:
    """Return the definition that a node refers to, with what stands beside the reference."""
    if "$ref" not in node:
        return node
    return {**root["definitions"][node["$ref"].rsplit("/", 1)[1]], **node}


def _range(node: Object) -> str:
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    least, above, most = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    first = f"above {above:g}" if above is not None else f"{least:g}" if least is not None else ""
    if most is None:
        return first and f"at least {first}"
    return f"{first}{',' if above is not None else ''} {'at most' if above is not None else 'to'} {_figure(most)}"


def _figure(number: float) -> str:
    return f"{number:,.15g}"
