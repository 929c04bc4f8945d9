"""Addresses of a Redis: what they mean, and that a wrong one says so without telling the password."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection, SSLConnection

from commontrip import Breakers, CircuitOpenError, StoreUnavailableError
from commontrip.redis import RedisStore
from commontrip.testing import RecordingListener
from tests.breaker.caller import Caller
from tests.support.proxy import Proxy
from tests.support.sentinel import SERVICE, Sentinel
from tests.support.servers import Server
from tests.support.waiting import PATIENCE

SECRET = "s3cr3tw0rd"  # noqa: S105 - of nothing that exists


def settings(url: str) -> dict[str, Any]:
    """Return how a store would connect to the server that an address names."""
    found: dict[str, Any] = RedisStore.from_url(url).client.connection_pool.connection_kwargs
    return found


# -- what an address means


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("redis://cache", {"host": "cache"}),
        ("redis://cache/", {"host": "cache"}),
        ("redis://cache:7000/3", {"host": "cache", "port": 7000, "db": 3}),
        ("redis://:pa%20ss@cache", {"password": "pa ss"}),
        ("redis://ann:pa%2Fss@cache", {"username": "ann", "password": "pa/ss"}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("rediss://cache:7000/3", {"host": "cache", "port": 7000, "db": 3}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("unix://ann:word@/run/redis.sock?db=2", {"path": "/run/redis.sock", "username": "ann", "db": 2}),
        ("redis+sentinel://one,two:7000/main", {"db": 0}),
        ("redis+sentinel://ann:word@one/main?db=4", {"username": "ann", "password": "word", "db": 4}),
    ],
)
def test_what_an_address_means(url: str, means: dict[str, object]) -> None:
    """Host, port, database, user and password are taken from the address, percent-encoding undone."""
    assert settings(url).items() >= means.items()


@pytest.mark.parametrize(
    "form", ["redis://h", "rediss://h", "unix:///s", "redis+sentinel://h/s", "rediss+sentinel://h/s"]
)
def test_every_client_suits_a_breaker(form: str) -> None:
    """However it is reached, Redis is asked without retries and answers in text."""
    found = settings(form)
    assert found["decode_responses"]
    assert found["retry"].get_retries() == 0


@pytest.mark.parametrize(("form", "secure"), [("redis+sentinel", False), ("rediss+sentinel", True)])
def test_sentinels(form: str, secure: bool) -> None:  # noqa: FBT001 - a row of the table
    """A Sentinel address names the sentinels, their service and their own login; TLS holds for both."""
    login = f"sentinel_username=bob&sentinel_password={SECRET}"
    store = RedisStore.from_url(f"{form}://ann:word@one:7000,two,[::1]:7001/main?db=4&{login}")
    pool = store.client.connection_pool
    sentinels = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert pool.service_name == "main"
    assert [(one["host"], one["port"]) for one in sentinels] == [("one", 7000), ("two", 26379), ("::1", 7001)]
    assert {(one["username"], one["password"]) for one in sentinels} == {("bob", SECRET)}
    assert {one["retry"].get_retries() for one in sentinels} == {0}
    assert all(
        issubclass(one.connection_pool.connection_class, _kind(secure)) for one in pool.sentinel_manager.sentinels
    )
    assert issubclass(pool.connection_class, _kind(secure))


def _kind(secure: bool) -> type:  # noqa: FBT001 - a row of the table
    return SSLConnection if secure else Connection


@pytest.mark.parametrize(("form", "secure"), [("redis+cluster", False), ("rediss+cluster", True)])
def test_clusters(form: str, secure: bool) -> None:  # noqa: FBT001 - a row of the table
    """A Cluster address names some of its nodes."""
    client = RedisStore.from_url(f"{form}://ann:{SECRET}@one:7000,two,[::1]:7001").client
    assert sorted(client.nodes_manager.startup_nodes) == ["::1:7001", "one:7000", "two:6379"]
    found = client.connection_kwargs
    assert (found["username"], found["password"]) == ("ann", SECRET)
    assert issubclass(found["connection_class"], _kind(secure))


# -- wrong addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis:",
        "redis://",
        "rediss://",
        "unix://",
        "localhost:6379",
        "http://localhost",
        "postgres://ann:s3cr3tw0rd@db/0",
        "ann:s3cr3tw0rd@cache:6379",
        "redis://ann:s3cr3tw0rd@",
        "redis://ann:s3cr3tw0rd@/0",
        "redis://:s3cr3tw0rd@:6379",
        "redis://ann:s3cr3tw0rd@cache:port",
        "redis://ann:s3cr3tw0rd@cache:99999",
        "redis://ann:s3cr3tw0rd@cache:-1",
        "redis://ann:s3cr3tw0rd@cache/main",
        "redis://ann:s3cr3tw0rd@cache/1/2",
        "redis://ann:s3cr3tw0rd@cache/-1",
        "redis://ann:s3cr3tw0rd@cache?socket_timeout=soon",
        "redis://cache?password=s3cr3tw0rd&db=main",
        "redis://ann:x/s3cr3tw0rd@cache",
        "redis://ann:x#s3cr3tw0rd@cache",
        "redis://ann:x?s3cr3tw0rd@cache",
        "redis://ann:s3cr3tw0rd[@cache:6379",
        "unix://ann:s3cr3tw0rd@?db=0",
        "unix:///run/redis.sock?db=main&password=s3cr3tw0rd",
        "redis+sentinel://",
        "redis+sentinel://one",
        "redis+sentinel://one/",
        "redis+sentinel:///main",
        "redis+sentinel://one,,two/main",
        "redis+sentinel://ann:s3cr3tw0rd@one:port/main",
        "redis+sentinel://ann:s3cr3tw0rd@one/main?db=first",
        "redis+sentinel://ann:s3cr3tw0rd@one/main?retries=3",
        "redis+sentinel://one/main?sentinel_passwort=s3cr3tw0rd",
        "redis+sentinel://ann:s3cr3tw0rd/one@two/main",
        "redis+cluster://",
        "redis+cluster://ann:s3cr3tw0rd@",
        "redis+cluster://one,",
        "redis+cluster://ann:s3cr3tw0rd@one:port,two",
        "redis+cluster://one/3",
        "redis+cluster://one?db=3",
        "redis+tls://ann:s3cr3tw0rd@one",
    ],
)
def test_a_wrong_address_is_refused(url: str) -> None:
    """A wrong address is a ValueError when the store is made, which shows the right forms and no password."""
    with pytest.raises(ValueError, match=r"the store's address .*redis://host\[:port\]\[/db\]") as caught:
        RedisStore.from_url(url)
    assert SECRET not in _told(caught.value)


@pytest.mark.parametrize("url", [None, 6379, b"redis://cache", ["redis://cache"]])
def test_what_is_no_text_is_refused(url: Any) -> None:
    """An address that is no text is a ValueError."""
    with pytest.raises(ValueError, match=r"store's address .*redis://host"):
        RedisStore.from_url(url)


@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "redis+tls"]),
    st.text("/?#[]@:,%ab \n", max_size=8),
    st.text("/?#[]@:,%ab \n", max_size=8),
    st.sampled_from(["host", "host:port", "host:6379/x", "", "host/main?db=x", "h,/s"]),
)
def test_no_error_tells_the_password(scheme: str, before: str, after: str, rest: str) -> None:
    """Whatever the password holds, and whatever else is wrong, no error repeats it."""
    told = ""
    try:
        RedisStore.from_url(f"{scheme}://ann:{before}{SECRET}{after}@{rest}")
    except ValueError as error:
        told = _told(error)
    assert SECRET not in told


def _told(error: BaseException | None) -> str:
    """Return all that a traceback would print of an error."""
    told = ""
    while error is not None:
        told += f"{error} {error.args}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told


# -- right addresses, used


@pytest.fixture
async def connect(prefix: str) -> AsyncIterator[Callable[[str], RedisStore]]:
    """Make stores by their address; they are closed in the end."""
    made: list[RedisStore] = []

    def store(url: str) -> RedisStore:
        made.append(RedisStore.from_url(url, prefix=prefix))
        return made[-1]

    yield store
    for one in made:
        await one.aclose()


@pytest.fixture
def guarded(fresh_server: Callable[..., Server]) -> Server:
    """A server that asks for a user and a password."""
    server = fresh_server()
    server.cli("ACL", "SETUSER", "ann", "on", f">{SECRET}/?", "~*", "&*", "+@all")
    server.cli("ACL", "SETUSER", "default", "resetpass", f">{SECRET}")
    return server


async def test_a_login_is_used(guarded: Server, connect: Callable[[str], RedisStore]) -> None:
    """User and password of the address open the door, over TCP and over a socket."""
    login = f"ann:{SECRET}%2F%3F"
    for url in (
        f"redis://{login}@127.0.0.1:{guarded.port}",
        f"unix://{login}@{guarded.socket}",
    ):
        assert (await Caller(connect(url)).read(seed=True)).transition


async def test_a_database_is_used(server: Server, connect: Callable[[str], RedisStore]) -> None:
    """The database of the address is where the keys are."""
    store = connect(f"redis://127.0.0.1:{server.port}/5")
    await Caller(store).seed()
    assert (await Caller(connect(f"{server.unix_url[:-1]}5")).read()).status == "ok"
    assert (await Caller(connect(server.url)).read()).status == "missing"


async def test_a_sentinels_login_is_used(
    fresh_server: Callable[..., Server], connect: Callable[[str], RedisStore]
) -> None:
    """Sentinels may ask for a password of their own."""
    master = fresh_server()
    with Sentinel(master, 1) as sentinel:
        sentinel.cli("ACL", "SETUSER", "bob", "on", f">{SECRET}", "~*", "&*", "+@all")
        sentinel.cli("ACL", "SETUSER", "default", "-@all", "+ping", "+info")
        address = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
        store = connect(f"{address}?sentinel_username=bob&sentinel_password={SECRET}")
        assert (await Caller(store).read(seed=True)).status == "new"
        with pytest.raises(StoreUnavailableError):
            await Caller(connect(address)).read()


# -- addresses where nobody is


@pytest.fixture
async def heard() -> RecordingListener:
    """What a replica reports."""
    return RecordingListener()


async def use(url: str, prefix: str, heard: RecordingListener) -> list[str]:
    """Make a hundred calls with a store that is not to be had; return the kinds of what was reported."""
    breakers = Breakers(RedisStore.from_url(url, prefix=prefix), listeners=[heard])
    async with breakers:
        auth = breakers.get("auth")
        for _ in range(100):
            async with auth:
                pass
        assert auth.snapshot.local
    return [report.kind for report in heard.reports]


async def test_an_unreachable_store_is_said_once(proxy: Proxy, prefix: str, heard: RecordingListener) -> None:
    """Where nobody listens this is said once, without the password, and calls go on in local mode."""
    proxy.refuse()
    url = f"redis://ann:{SECRET}@127.0.0.1:{proxy.port}/0"
    kinds = await use(url, prefix, heard)
    assert sorted(kinds) == ["local_mode", "store_error"]
    assert not [report for report in heard.reports if SECRET in report.text]


async def test_an_unknown_host_is_said_once(prefix: str, heard: RecordingListener) -> None:
    """A host that does not exist is said once, and calls go on in local mode."""
    assert sorted(await use("redis://no-such-host.invalid", prefix, heard)) == ["local_mode", "store_error"]


async def test_a_missing_socket_is_said_once(prefix: str, heard: RecordingListener) -> None:
    """A socket that does not exist is said once, and calls go on in local mode."""
    assert sorted(await use("unix:///nowhere/redis.sock", prefix, heard)) == ["local_mode", "store_error"]


async def test_a_wrong_password_is_said_once(guarded: Server, prefix: str, heard: RecordingListener) -> None:
    """A wrong password is said once, as what it is and without repeating it; calls go on in local mode."""
    url = f"redis://ann:{SECRET}wrong@127.0.0.1:{guarded.port}"
    assert sorted(await use(url, prefix, heard)) == ["local_mode", "misconfigured"]
    assert not [report for report in heard.reports if SECRET in report.text]


async def test_a_missing_password_is_said_once(guarded: Server, prefix: str, heard: RecordingListener) -> None:
    """A missing password is said once, as what it is; calls go on in local mode."""
    assert sorted(await use(guarded.url, prefix, heard)) == ["local_mode", "misconfigured"]


async def test_what_is_no_redis_is_said_once(prefix: str, heard: RecordingListener) -> None:
    """A port where something else talks is said once, and calls go on in local mode."""

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(babble, "127.0.0.1", 0)
    store = RedisStore.from_url(f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}", prefix=prefix)
    async with other, Breakers(store, listeners=[heard]) as breakers:
        auth = breakers.get("auth")
        async with asyncio.timeout(10):
            while not auth.snapshot.local:  # nobody knows yet that waiting will not help
                with contextlib.suppress(CircuitOpenError):
                    await auth.call(asyncio.sleep, 0.01)
        assert [await auth.call(asyncio.sleep, 0, "through") for _ in range(9)] == 9 * ["through"]
    assert sorted(report.kind for report in heard.reports) == ["local_mode", "store_error"]


async def test_tls_to_a_server_without_it_is_said_once(server: Server, prefix: str, heard: RecordingListener) -> None:
    """TLS where there is none is said once, and calls go on in local mode."""
    url = server.url.replace("redis://", "rediss://")
    assert sorted(await use(url, prefix, heard)) == ["local_mode", "store_error"]


async def test_a_store_that_comes_is_used(prefix: str, heard: RecordingListener, fresh_server: Any) -> None:
    """A server that was absent at the start is used when it is there."""
    server = fresh_server()
    server.kill()
    async with Breakers(
        RedisStore.from_url(server.url, prefix=prefix), listeners=[heard], store_budget=PATIENCE
    ) as breakers:
        auth = breakers.get("auth")
        await auth.call(asyncio.sleep, 0)
        assert auth.snapshot.local
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(10):
            while auth.snapshot.local:
                await auth.call(asyncio.sleep, 0.01)
    assert server.cli("GET", f"{prefix}:auth:state") == "CLOSED"
    assert [report.kind for report in heard.reports if report.kind.endswith("mode")] == ["local_mode", "shared_mode"]
