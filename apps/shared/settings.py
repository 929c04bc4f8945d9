"""Settings: read from the environment once, at start; everything that is wrong is told together.

A field's variable is its alias, or the service's prefix and its name. Nothing else reads the environment.
"""

import difflib
import os
import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from commontrip.redis import RedisStore, with_login

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _printable(value: SecretStr) -> SecretStr:
    if not re.fullmatch("[!-~]*", value.get_secret_value()):
        raise ValueError("a token is of printable ASCII without blanks, as a header has it")
    return value


Token = Annotated[SecretStr, AfterValidator(_printable)]

BASE = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)


class SettingsError(Exception):
    """The settings do not do; one readable line for each of the `problems`."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


class ServiceSettings(BaseSettings):
    """What every service is asked for."""

    model_config = BASE

    port: Port = 8080
    metrics_port: Port = 9101
    listen_host: str = Field("127.0.0.1", validation_alias="LISTEN_HOST", description="address to listen on")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="least level that is logged: DEBUG, INFO, WARNING or ERROR",
    )
    access_log: bool = Field(True, validation_alias="ACCESS_LOG", description="one log line per request, health aside")
    drain_seconds: float = Field(
        1.0,
        validation_alias="DRAIN_SECONDS",
        ge=0,
        le=300,
        description="seconds from SIGTERM, when /readyz begins to fail, until the port is closed",
    )
    shutdown_seconds: float = Field(
        15.0,
        validation_alias="SHUTDOWN_SECONDS",
        ge=1,
        le=300,
        description="seconds after that for requests under way, before they are cancelled",
    )
    keep_alive_seconds: int = Field(
        30,
        validation_alias="KEEP_ALIVE_SECONDS",
        ge=6,
        le=3600,
        description="seconds that an idle connection is kept; callers give up theirs after 4",
    )
    connection_age_seconds: Seconds = Field(
        60.0,
        validation_alias="CONNECTION_AGE_SECONDS",
        description="seconds after which a connection ends with its next answer, so that new replicas get their share",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class RedisSettings(BaseSettings):
    """Where Redis is, for the services that use it."""

    model_config = BASE

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias="REDIS_URL",
        description="Redis: redis://, rediss:// (TLS), unix://, redis+sentinel://host,…/service, redis+cluster://host,…",
    )
    redis_username: str = Field("", validation_alias="REDIS_USERNAME", description="user name, if REDIS_URL has none")
    redis_password: SecretStr = Field(
        SecretStr(""), validation_alias="REDIS_PASSWORD", description="password, if REDIS_URL has none"
    )
    redis_prefix: str = Field(
        "cb",
        validation_alias="REDIS_PREFIX",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="first part of every key; two installations on one Redis need two",
    )

    @field_validator("redis_url")
    @classmethod
    def _usable(cls, value: SecretStr) -> SecretStr:
        RedisStore.from_url(value.get_secret_value())
        return value

    @property
    def redis_address(self) -> str:
        """The URL with user name and password in it."""
        return with_login(
            self.redis_url.get_secret_value(), self.redis_username, self.redis_password.get_secret_value()
        )


Settings = TypeVar("Settings", bound=BaseSettings)


def load(kind: type[Settings]) -> Settings:
    """Read the settings from the environment, or raise `SettingsError` with all that is wrong."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError(*(_line(kind, problem) for problem in error.errors())) from None


def variables(kind: type[BaseSettings]) -> dict[str, str]:
    """Return the environment variable of each field."""
    prefix = kind.model_config.get("env_prefix", "").upper()
    fields = kind.model_fields.items()
    return {name: str(field.validation_alias or f"{prefix}{name.upper()}") for name, field in fields}


def misspelt(kind: type[BaseSettings]) -> list[str]:
    """Return a line for each variable with the service's prefix that is close to a setting, but is none."""
    prefix, known = kind.model_config.get("env_prefix", ""), list(variables(kind).values())
    lines = []
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.85)
            lines += [f"{name} is no setting; did you mean {one}?" for one in close]
    return lines


def _line(kind: type[BaseSettings], problem: ErrorDetails) -> str:
    where, names = str(problem["loc"][0]) if problem["loc"] else "", variables(kind)
    field = next((name for name, variable in names.items() if where in (name, variable)), "")
    text = problem["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if not field:
        return text
    info = kind.model_fields[field]
    given = "" if info.annotation is SecretStr else f", not {problem['input']!r}"
    return f"{names[field]}: {text}{given} ({info.description})"
