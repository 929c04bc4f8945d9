"""`.env.template` as the settings have it; `python -m tests.apps.env_template` writes it anew."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from apps.auth.settings import Settings as Auth
from apps.gateway.settings import Settings as Gateway
from apps.profile.settings import Settings as Profile
from apps.shared.settings import variables

FILE = Path(__file__).parents[2] / ".env.template"
SERVICES: dict[str, type[BaseSettings]] = {"gateway": Gateway, "profile": Profile, "auth": Auth}
_HEAD = """\
# Every setting, with its default. Copy this file to .env and change what you want; what is empty is not set.
# Durations are in seconds.
"""
_TAIL = """\
# ---- tracing, as the OpenTelemetry SDK reads it; off without an endpoint

# where spans go, by OTLP over HTTP
# OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318

# which requests' spans; those of transitions are always sent
# OTEL_TRACES_SAMPLER=parentbased_traceidratio
# OTEL_TRACES_SAMPLER_ARG=0.1
"""


def render() -> str:
    """Return the text of the file: what several services share first, then what each has of its own."""
    shared = {name: field for kind in SERVICES.values() for name, field in _settings(kind) if not _own(kind, name)}
    parts = [_HEAD, _section("all services", shared)]
    for service, kind in SERVICES.items():
        own = {name: text for name, text in _settings(kind) if _own(kind, name)}
        parts.append(_section(service, own))
    return "\n".join([*parts, _TAIL])


def _own(kind: type[BaseSettings], variable: str) -> bool:
    return variable.startswith(kind.model_config.get("env_prefix", ""))


def _settings(kind: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    for name, variable in variables(kind).items():
        field = kind.model_fields[name]
        yield variable, f"# {field.description}\n{variable}={_text(field.default)}\n"


def _section(title: str, settings: dict[str, str]) -> str:
    return f"# ---- {title}\n\n" + "\n".join(settings.values())


def _text(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, dict):
        return ";".join(f"{prefix}={','.join(addresses)}" for prefix, addresses in default.items())
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    FILE.write_text(render())
