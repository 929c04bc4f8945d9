"""What a PromQL query asks for, held against what a service exposes."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

TARGET = frozenset({"job", "instance", "namespace", "pod", "service", "container", "endpoint"})
"""Labels that Prometheus gives to whatever it scrapes."""
_GRAFANA = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}
Exposed = dict[str, dict[str, set[str]]]
"""By metric, by label: the values."""


def exposed(*texts: str) -> Exposed:
    """Read what services answer to a scrape."""
    found: Exposed = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, defaultdict(set))
                for label, value in sample.labels.items():
                    labels[label].add(value)
    return found


def faults(query: str, there: Exposed) -> list[str]:
    """Return what is wrong with a query: metrics and labels that are not there, and sums of what is no part."""
    for variable, value in _GRAFANA.items():
        query = query.replace(variable, value)
    return list(_faults(promql.parse(query), there, aggregated="", rated=False))


def labels_of(query: str) -> set[str]:
    """Return the labels of a query's result: those of its outermost aggregation."""
    by: list[set[str]] = []
    promql.walk(promql.parse(query), lambda expr: by.append(_by(expr)))
    return next(filter(None, by), set())


def increase(query: str, before: str, after: str) -> float:
    """Return what a query's increases add up to from one scrape to the next: a series that was not there has none."""
    then, now = _series(before), _series(after)
    return sum(
        now[series] - then[series]
        for selector in _selectors(promql.parse(query))
        for series in now.keys() & then.keys()
        if _matches(selector, dict(series))
    )


def _series(text: str) -> dict[frozenset[tuple[str, str]], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {frozenset({"__name__": one.name, **one.labels}.items()): one.value for one in samples}


def _matches(selector: Any, labels: dict[str, str]) -> bool:
    wanted = {one.name: one.value for one in selector.matchers.matchers}
    return ({"__name__": selector.name} | wanted).items() <= labels.items()


def _faults(expr: Any, there: Exposed, *, aggregated: str, rated: bool) -> Iterator[str]:
    if isinstance(expr, promql.VectorSelector):
        yield from _wrong(expr, there, aggregated, rated=rated)
    elif isinstance(expr, promql.AggregateExpr):
        known = set().union(TARGET, *(there.get(name, {}) for name in _metrics(expr)))
        yield from (f"no label {label} in {expr}" for label in sorted(_by(expr) - known))
        yield from _faults(expr.expr, there, aggregated=str(expr.op), rated=rated)
    elif isinstance(expr, promql.MatrixSelector):
        yield from _faults(expr.vector_selector, there, aggregated=aggregated, rated=rated)
    elif isinstance(expr, promql.BinaryExpr):
        for side in (expr.lhs, expr.rhs):
            yield from _faults(side, there, aggregated=aggregated, rated=rated)
    elif isinstance(expr, promql.ParenExpr):
        yield from _faults(expr.expr, there, aggregated=aggregated, rated=rated)
    elif isinstance(expr, promql.Call):
        rates = rated or expr.func.name in ("rate", "increase")
        for one in expr.args:
            yield from _faults(one, there, aggregated=aggregated, rated=rates)
    elif not isinstance(expr, promql.NumberLiteral):
        yield f"{type(expr).__name__} is not known here: {expr}"


def _wrong(expr: Any, there: Exposed, aggregated: str, *, rated: bool) -> Iterator[str]:
    name = expr.name
    if name not in there:
        yield f"no metric {name}"
        return
    for matcher in expr.matchers.matchers:
        value, known = matcher.value, there[name].get(matcher.name, set())
        if matcher.name not in there[name] and matcher.name not in TARGET:
            yield f"no label {matcher.name} in {name}"
        elif matcher.op == promql.MatchOp.Equal and not value.startswith("$") and value not in known:
            yield f"{matcher.name} is never {value} in {name}"
    counts = bool(re.search("_(total|count|sum|bucket)$", name))
    if counts != rated:
        yield f"{name} is {'a counter and has no rate' if counts else 'no counter'}"
    if name in ("circuit_breaker_state", "circuit_breaker_override") and aggregated != "max":
        yield f"every replica reports the fleet's {name}: it is aggregated by max, not {aggregated or 'at all'}"
    if counts and aggregated != "sum" and (aggregated or name.startswith("circuit_")):
        yield f"every replica counts {name} for itself: it is summed"


def _metrics(expr: Any) -> set[str]:
    return {selector.name for selector in _selectors(expr)}


def _selectors(expr: Any) -> list[Any]:
    found: list[Any] = []

    def note(one: Any) -> None:
        if isinstance(one, promql.VectorSelector):
            found.append(one)

    promql.walk(expr, note)
    return found


def _by(expr: Any) -> set[str]:
    modifier = expr.modifier if isinstance(expr, promql.AggregateExpr) else None
    return set(modifier.labels) if modifier and modifier.type == promql.AggModifierType.By else set()
