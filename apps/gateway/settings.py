"""What the gateway is asked for."""

import re
from typing import Annotated

import httpx
from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from apps.shared.settings import BASE, Count, Port, Seconds, ServiceSettings

_PREFIX = re.compile(r"/|(/[A-Za-z0-9._~-]+)+")
_ADDRESS = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?")
Routes = dict[str, tuple[str, ...]]
_DEFAULT: Routes = {"/profile": ("http://127.0.0.1:8091", "http://127.0.0.1:8092", "http://127.0.0.1:8093")}


class Settings(ServiceSettings):
    """The settings of the gateway."""

    model_config = SettingsConfigDict(**BASE, env_prefix="GATEWAY_", validate_default=True)

    port: Port = Field(8080, description="port for requests")
    metrics_port: Port = Field(9101, description="port for Prometheus")
    routes: Annotated[Routes, NoDecode] = Field(
        _DEFAULT, description="path prefixes and their addresses: /prefix=http://host:port,…;/prefix=…"
    )
    first_byte_seconds: Seconds = Field(10.0, description="seconds from a request's arrival to its answer's first byte")
    connect_seconds: Seconds = Field(1.0, description="seconds of these for one attempt to connect")
    idle_seconds: Seconds = Field(60.0, description="seconds that an answer may stand still, on either side")
    concurrency: Count = Field(500, description="requests under way at once; one more gets 503")
    streams: Count = Field(1_000, description="event streams open at once, beside these")
    body_bytes: int = Field(10_485_760, ge=0, le=2**40, description="bytes of a request's body at most")
    skip_seconds: Seconds = Field(
        2.0, description="seconds for which an address that refused or hung is not tried first"
    )
    trust_forwarded: bool = Field(
        False, description="whether clients' X-Forwarded-* are believed: only behind a proxy that sets them"
    )

    @field_validator("routes", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        routes: Routes = {}
        for one in filter(None, (part.strip() for part in value.split(";"))):
            prefix, _, addresses = one.partition("=")
            if not _PREFIX.fullmatch(prefix) or prefix in routes:
                raise ValueError(f"a route is /prefix=address,… and each prefix stands once; {one!r} is none")
            routes[prefix] = tuple(_address(text.strip()) for text in addresses.split(","))
        if not routes:
            raise ValueError("there is no route in it")
        return routes


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if not found or int(found["port"] or 1) not in range(1, 65_536) or not _is_host(text):
        raise ValueError(f"an address is http://host:port, not {text!r}")
    return text.rstrip("/")


def _is_host(text: str) -> bool:
    """Whether requests can be sent there: not every number is an IP address, not every xn--… a name."""
    try:
        return bool(httpx.URL(text).host)
    except (httpx.InvalidURL, UnicodeError):
        return False
