"""What auth is asked for."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from apps.shared.settings import BASE, Port, RedisSettings, Seconds, ServiceSettings, Token


class Settings(ServiceSettings, RedisSettings):
    """The settings of auth; Redis is used only for faults."""

    model_config = SettingsConfigDict(**BASE, env_prefix="AUTH_")

    port: Port = Field(8082, description="port for requests")
    metrics_port: Port = Field(9102, description="port for Prometheus")
    users_path: Path | None = Field(
        None, description="JSON file of users: roles, blocked, valid_until by id; the sample if empty"
    )
    token: Token = Field(SecretStr(""), description="bearer token that callers must show; none if empty")
    faults: bool = Field(False, description="whether faults can be ordered at /faults; never in production")
    fault_max_seconds: Seconds = Field(600.0, description="seconds after which a fault ends at the latest")
