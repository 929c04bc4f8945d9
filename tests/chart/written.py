"""Files that are made from others; `python -m tests.chart.written` writes them anew.

The comments in values.yaml and the tables in the charts' READMEs say what the schemas say. k8s/rendered is the
chart with its own values, for readers of plain YAML.
"""

import json
import re
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.chart.rendering import CHART, REDIS, ROOT, SERVICES, render
from tests.chart.values import Value, groups, leaves

RENDERED = ROOT / "k8s/rendered"
_TABLE = re.compile(r"(<!-- values -->\n).*?(<!-- end of values -->)", re.DOTALL)
_RIGHTS = re.compile(r"(<!-- rights -->\n).*?(<!-- end of rights -->)", re.DOTALL)
_KEY = re.compile(r"( *)([A-Za-z]+):")
_HEAD = "# yaml-language-server: $schema=values.schema.json\n# What each key means, with unit and range: README.md.\n"
_SAYS = "# The chart with its own values, by `python -m tests.chart.written`: change the chart, not this file.\n"
_SECRET = "# First: kubectl -n commontrip create secret generic commontrip-redis --from-literal=password=…\n"  # noqa: S105


def files() -> dict[Path, str]:
    """Return every file with the text that it must have."""
    made = {chart / "values.yaml": _commented(chart) for chart in (CHART, REDIS)}
    made |= {chart / "README.md": _with_table(chart) for chart in (CHART, REDIS)}
    return made | {RENDERED / name: text for name, text in _plain().items()}


def _commented(chart: Path) -> str:
    """Put what the schema says above each key that has a line of its own; what is said already is not repeated."""
    said = {value.path: value.text for value in leaves(chart)}
    said |= {path: node["description"] for path, node in groups(chart) if "description" in node}
    lines, path, seen = [], [""] * 8, set()
    for line in (chart / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#") or not line:
            continue
        found = _KEY.match(line)
        if found and (depth := len(found[1]) // 2) < len(path):
            path[depth:] = [found[2], *[""] * (len(path) - depth - 1)]
            text = said.get(".".join(filter(None, path)), "")
            lines += [] if depth or not lines else [""]
            lines += _comment(text, found[1]) if text not in seen else []
            seen.add(text)
        lines.append(line)
    return _HEAD + "\n" + "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _with_table(chart: Path) -> str:
    rows = ["| value | default | what it is |", "|---|---|---|"]
    rows += [f"| {name} | {default} | {_cell(text)} |" for name, default, text in _rows(leaves(chart))]
    text = (chart / "README.md").read_text()
    text = _RIGHTS.sub(lambda found: f"{found[1]}```text\n{_rights()}\n```\n{found[2]}", text)
    return _TABLE.sub(lambda found: f"{found[1]}{chr(10).join(rows)}\n{found[2]}", text)


def _rights() -> str:
    """Return the command that gives a user of another Redis the rights that the chart's own has."""
    rules = render().config("demo-redis")["users.acl"].splitlines()[1].split()[4:]
    words = f"ACL SETUSER commontrip on >password {' '.join(rules)}"
    return " \\\n  ".join(textwrap.wrap(words, 100, break_on_hyphens=False))


def _rows(values: list[Value]) -> list[tuple[str, str, str]]:
    """Return the table's rows; what all three services have in the same way is one row."""
    alike: dict[tuple[str, str], list[Value]] = defaultdict(list)
    for value in values:
        service, _, rest = value.path.partition(".")
        alike[(rest, value.text) if service in SERVICES else (value.path, value.text)].append(value)
    rows = []
    for (rest, text), some in alike.items():
        shown = list(dict.fromkeys(_code(value.default) for value in some))
        name = rest if some[0].path == rest else f"*service*.{rest}" if len(some) == len(SERVICES) else some[0].path
        rows.append((f"`{name}`" if "*" not in name else f"*service*`.{rest}`", " / ".join(shown), text))
    return rows


def _code(default: Any) -> str:
    return "" if default in ("", None, [], {}) else f"`{json.dumps(default).strip(chr(34))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _plain() -> dict[str, str]:
    rendered = render({"redis": {"auth": {"existingSecret": "commontrip-redis"}}}, release="commontrip")
    parts: dict[str, list[str]] = defaultdict(list)
    for name, text in rendered.texts.items():
        if name.endswith(".yaml") and "/tests/" not in name:
            short = "redis.yaml" if name.startswith("charts/redis/") else Path(name).name
            parts[short].append(text.strip().removeprefix("---").strip())
    heads = {"redis.yaml": _SAYS + _SECRET}
    return {name: heads.get(name, _SAYS) + "\n---\n".join(texts) + "\n" for name, texts in parts.items()}


if __name__ == "__main__":
    RENDERED.mkdir(parents=True, exist_ok=True)
    for file, text in files().items():
        file.write_text(text)
    for stray in set(RENDERED.iterdir()) - set(files()):
        stray.unlink()
