"""From an address to a redis-py client that suits a breaker: no retries of its own, short timeouts."""

from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

_FORMS = (
    "redis://host[:port][/db], rediss://…, unix:///path, "
    "redis+sentinel://host[:port],…/service or redis+cluster://host[:port],…"
)
_CLIENT: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "replace",  # garbage in a key is repaired, not raised
    "socket_connect_timeout": 1.0,
    "socket_timeout": None,  # who asks sets the limit
    "protocol": 2,
}


def _settings() -> dict[str, Any]:
    # redis-py's own retries would send a script several times and outlive the store budget.
    return {**_CLIENT, "retry": Retry(NoBackoff(), 0)}


class _WrongError(ValueError):
    """What is wrong with an address, in words that tell no secret."""


def with_login(url: str, username: str, password: str) -> str:
    """Put user name and password into an address that has no login; both may be empty."""
    if "@" in urlsplit(url).netloc or not (username or password):
        return url
    return url.replace("://", f"://{quote(username, safe='')}:{quote(password, safe='')}@", 1)


def connect(url: Any) -> Any:
    """Return a client for the address; a wrong one is a `ValueError` that does not repeat its password."""
    if not isinstance(url, str):
        raise ValueError(f"a store's address is a text such as {_FORMS}, not {url!r}")
    scheme, found, _ = url.partition("://")
    make = {"": _plain, "unix": _plain, "+sentinel": _sentinel, "+cluster": _cluster}.get(
        scheme.removeprefix("rediss").removeprefix("redis")
    )
    wrong = "its scheme is none of them" if found else "it has no scheme"
    try:
        if make and found:
            return make(url)
    except _WrongError as error:
        wrong = str(error)
    except ValueError:
        wrong = "it cannot be read"
    raise ValueError(f"the store's address must be {_FORMS}; {wrong}") from None


def _plain(url: str) -> Any:
    _numbers(url)
    return Redis.from_url(url, max_connections=64, **_settings())


def _numbers(url: str) -> None:
    """Raise for what redis-py would take and misread: a port or a database that is no number."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path:
            raise _WrongError("it names no path")
        return
    parts.port  # noqa: B018 - raises ValueError
    if not parts.hostname:
        raise _WrongError("it names no host")
    if parts.path not in ("", "/") and not parts.path[1:].isdigit():
        raise _WrongError("the database must be a number")


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for part in netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{part}")
        if not one.hostname:
            raise _WrongError("one of its hosts has no name")
        hosts.append((one.hostname, one.port or port))
    return hosts


def _login(netloc: str) -> dict[str, str]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    found = {"username": unquote(user), "password": unquote(password)}
    return {key: value for key, value in found.items() if value}


def _secure(url: str) -> dict[str, Any]:
    return {"ssl": True} if url.startswith("rediss") else {}


def _sentinel(url: str) -> Any:
    parts = urlsplit(url)
    service = parts.path.strip("/")
    if not service:
        raise _WrongError("a Sentinel address ends with /service")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if query.keys() - {"db", "sentinel_username", "sentinel_password"}:
        raise _WrongError("its only options are db, sentinel_username and sentinel_password")
    login = {key.removeprefix("sentinel_"): value for key, value in query.items() if key.startswith("sentinel_")}
    asked = {**_settings(), "socket_timeout": 1.0, **_secure(url), **login}
    settings = {**_settings(), **_secure(url), **_login(parts.netloc), "db": int(query.get("db", "0"))}
    sentinel: Any = Sentinel(_hosts(parts.netloc, 26379), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    return sentinel.master_for(service, **settings)


def _cluster(url: str) -> Any:
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query:
        raise _WrongError("a Cluster has no databases and takes no options")
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379)]
    settings = {**_settings(), **_secure(url), **_login(parts.netloc)}
    return RedisCluster(startup_nodes=nodes, **settings)
