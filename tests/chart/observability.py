"""The chart's alerts and dashboard for k8s/observability; `python -m tests.chart.observability` writes them anew."""

from tests.chart.rendering import CHART, ROOT

GENERATED = ROOT / "k8s/observability/generated.yaml"
_FILES = {"commontrip-rules": "rules.yaml", "commontrip-dashboard": "dashboard.json"}
_SAYS = (
    "# The chart's own files, by `python -m tests.chart.observability`: change charts/commontrip/files, not this one.\n"
)


def text() -> str:
    """Return what has to be in that file."""
    return _SAYS + "---\n".join(_config_map(name, file) for name, file in _FILES.items())


def _config_map(name: str, file: str) -> str:
    lines = (CHART / "files" / file).read_text().splitlines()
    head = ("apiVersion: v1", "kind: ConfigMap", "metadata:", f"  name: {name}", "  namespace: observability", "data:")
    return "\n".join([*head, f"  {file}: |", *(f"    {line}".rstrip() for line in lines), ""])


if __name__ == "__main__":
    GENERATED.write_text(text())
