"""Who runs where, from the settings: a place for each process, and no two on one port."""

import ipaddress
import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from apps.auth.settings import Settings as Auth
from apps.gateway.settings import Settings as Gateway
from apps.profile.settings import Settings as Profile
from apps.shared.settings import SettingsError, load

REPLICAS = 3
TOKEN = "laptop"  # noqa: S105 - printed, and good on this machine only
"""The operators' token if none is set; there is none if others than this machine could use it."""
_HIGHEST = 65_535


@dataclass(frozen=True)
class Place:
    """A service process: where it listens, and what it is told beside this process's environment."""

    name: str
    host: str
    port: int
    metrics_port: int
    env: dict[str, str]

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://{self.host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus would ask it."""
        return f"http://{self.host}:{self.metrics_port}/metrics"


@dataclass(frozen=True)
class RedisPlace:
    """Where Redis is to be started."""

    host: str
    port: int
    user: str
    password: str


@dataclass(frozen=True)
class Places:
    """The whole system."""

    redis: RedisPlace | None
    """None if it is elsewhere."""
    auth: Place
    profiles: Sequence[Place]
    gateway: Place
    settings: Profile
    auth_token: str
    override_token: str
    patience: float
    """Seconds in which a service has ended, if nothing is wrong."""

    @property
    def services(self) -> list[Place]:
        """All but Redis, in the order in which they are started."""
        return [self.auth, *self.profiles, self.gateway]


def find_places(*, access_log: bool = False) -> Places:
    """Lay out the system by the environment. Raises `SettingsError` with all that is wrong, taken ports included."""
    auth, profile, gateway = _load()
    host, redis = profile.listen_host, _redis(profile)
    _check(_ports(auth, profile, gateway), host, redis)
    token = profile.override_token.get_secret_value() or (TOKEN if _is_loopback(host) else "")
    shared = {"ACCESS_LOG": str(access_log)}
    if "DRAIN_SECONDS" not in os.environ:
        shared["DRAIN_SECONDS"] = "0"  # whoever would ask has ended before
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no address to listen on
    reach = f"[{reach}]" if ":" in reach else reach
    one = Place("auth", reach, auth.port, auth.metrics_port, shared | {"AUTH_FAULTS": "true"})
    own = shared | {"PROFILE_OVERRIDE_TOKEN": token}
    if profile.auth_url == Profile.model_fields["auth_url"].default:
        own["PROFILE_AUTH_URL"] = one.url
    replicas = [_replica(profile, reach, number, own) for number in range(REPLICAS)]
    own = dict(shared)
    if gateway.routes == Gateway.model_fields["routes"].default:
        own["GATEWAY_ROUTES"] = f"/profile={','.join(replica.url for replica in replicas)}"
    front = Place("gateway", reach, gateway.port, gateway.metrics_port, own)
    patience = profile.drain_seconds + profile.shutdown_seconds + 2
    return Places(redis, one, replicas, front, profile, auth.token.get_secret_value(), token, patience)


def _load() -> tuple[Auth, Profile, Gateway]:
    """Read the settings of all services; what is wrong in several is told once."""
    problems: dict[str, None] = {}
    for kind in (Auth, Profile, Gateway):
        try:
            load(kind)
        except SettingsError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SettingsError(*problems)
    return load(Auth), load(Profile), load(Gateway)


def _replica(settings: Profile, host: str, number: int, env: dict[str, str]) -> Place:
    port, metrics_port = settings.port + number, settings.metrics_port + number
    own = {
        "PROFILE_PORT": str(port),
        "PROFILE_METRICS_PORT": str(metrics_port),
        "PROFILE_REPLICA": f"{settings.replica or 'profile'}-{number + 1}",
    }
    return Place(f"profile-{number + 1}", host, port, metrics_port, env | own)


def _redis(settings: Profile) -> RedisPlace | None:
    url = urlsplit(settings.redis_address)
    if url.scheme != "redis" or not _is_loopback(url.hostname or "localhost"):
        return None
    user, password = unquote(url.username or ""), unquote(url.password or "")
    return RedisPlace(url.hostname or "localhost", url.port or 6379, user, password)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ports(auth: Auth, profile: Profile, gateway: Gateway) -> dict[str, int]:
    """Return the ports of the services, by their settings."""
    ports = {
        "GATEWAY_PORT": gateway.port,
        "GATEWAY_METRICS_PORT": gateway.metrics_port,
        "AUTH_PORT": auth.port,
        "AUTH_METRICS_PORT": auth.metrics_port,
    }
    for name, first in (("PROFILE_PORT", profile.port), ("PROFILE_METRICS_PORT", profile.metrics_port)):
        if first + REPLICAS - 1 > _HIGHEST:
            raise SettingsError(
                f"{name}: {REPLICAS} replicas take {first} and the next ones, and {_HIGHEST} is the last"
            )
        ports |= {f"{name}{f' + {number}' if number else ''}": first + number for number in range(REPLICAS)}
    return ports


def _check(ports: dict[str, int], host: str, redis: RedisPlace | None) -> None:
    """Raise one line for all ports that are wanted twice, else one for all that are taken."""
    wanted = [(name, host, port) for name, port in ports.items()]
    wanted += [("REDIS_URL", redis.host, redis.port)] if redis else []
    by_port = defaultdict(list)
    for name, _, port in wanted:
        by_port[port].append(name)
    twice = [f"{' and '.join(names)} are both {port}" for port, names in by_port.items() if len(names) > 1]
    if twice:
        raise SettingsError("; ".join(twice))
    taken = {name: why for name, host, port in wanted if (why := why_not(host, port))}
    if taken:
        name, *others = taken
        also = f"; taken as well: {', '.join(others)}; does it run already?" if others else ""
        ours = "; a Redis is to be started there: name a free port" if name == "REDIS_URL" else ""
        raise SettingsError(f"{name}: {taken[name]}{also}{ours}")


def why_not(host: str, port: int) -> str:
    """Say why nobody can listen there; nothing if somebody can."""
    host = "127.0.0.1" if host == "localhost" else host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host}:{port}: {error.strerror}"
    return ""
