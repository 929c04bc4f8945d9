"""The proxy that other tests trust counts, delays, freezes, cuts and loses as it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as BrokenError
from redis.exceptions import TimeoutError as LateError

from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually


@asynccontextmanager
async def connected(proxy: Proxy, protocol: int = 3, patience: float = 5.0) -> AsyncIterator[redis.asyncio.Redis]:
    """Give a client that never retries by itself, warm, with the counters at zero."""
    client = redis.asyncio.Redis(
        port=proxy.port, protocol=protocol, socket_timeout=patience, retry=Retry(NoBackoff(), 0)
    )
    try:
        await client.ping()
        proxy.forget()
        yield client
    finally:
        await client.aclose()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_counts_what_crosses(proxy: Proxy, prefix: str, protocol: int) -> None:
    """Every command is counted once by its name, in a pipeline too."""
    async with connected(proxy, protocol) as client:
        await client.set(prefix, "1")
        pipeline = client.pipeline(transaction=True)
        pipeline.incr(prefix)
        pipeline.incr(prefix)
        await pipeline.execute()
        assert proxy.counts == {"SET": 1, "MULTI": 1, "INCRBY": 2, "EXEC": 1}
        assert proxy.history[0].words == (b"SET", prefix.encode(), b"1")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_answers_stay_with_their_commands_beside_messages(proxy: Proxy, prefix: str, protocol: int) -> None:
    """Messages of a subscription are passed on and answer no command."""
    async with connected(proxy, protocol) as client, client.pubsub() as subscription:
        await subscription.subscribe(prefix)
        await subscription.get_message(timeout=5)
        await client.publish(prefix, "hello")
        message = await subscription.get_message(timeout=5)
        await subscription.ping()
        answer = await subscription.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b"hello"
    assert answer is not None
    assert answer["type"] == "pong"


async def test_delay_is_per_round_trip(proxy: Proxy) -> None:
    """Each round trip takes the delay longer; commands sent together wait together."""
    async with connected(proxy) as client:
        proxy.delay = 0.1
        started = time.monotonic()
        await client.ping()
        alone = time.monotonic() - started
        await asyncio.gather(*(client.ping() for _ in range(20)))
        together = time.monotonic() - started - alone
    assert 0.1 <= alone < 1
    assert 0.1 <= together < 1


async def test_freeze_holds_and_thaw_delivers(proxy: Proxy) -> None:
    """A frozen proxy accepts and passes nothing; what was held up arrives after the thaw."""
    async with connected(proxy) as client:
        proxy.freeze()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        waiting = asyncio.ensure_future(client.ping())
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        assert not proxy.counts
        proxy.thaw()
        assert await waiting
        writer.close()


async def test_cut_breaks_what_is_under_way(proxy: Proxy) -> None:
    """A cut ends every connection; the next one works."""
    async with connected(proxy) as client:
        proxy.reply_delay = 60
        waiting = asyncio.ensure_future(client.ping())
        await eventually(lambda: proxy.counts["PING"] == 1, "the command to cross")
        proxy.cut()
        with pytest.raises(BrokenError):
            await waiting
        proxy.reply_delay = 0
        assert await client.ping()


async def test_refuse_leaves_open_connections(proxy: Proxy) -> None:
    """New connections are refused while open ones go on, until the proxy accepts again."""
    async with connected(proxy) as client:
        proxy.refuse()
        assert await client.ping()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.accept()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.close()


async def test_lost_reply_was_done(proxy: Proxy, prefix: str) -> None:
    """The server does a command whose reply is lost; others are answered."""
    async with connected(proxy) as client:
        proxy.lose_replies(command="INCRBY")
        await client.set(prefix, "1")
        with pytest.raises(BrokenError):
            await client.incr(prefix)
        assert await client.get(prefix) == b"2"


async def test_lost_request_was_not_done(proxy: Proxy, prefix: str) -> None:
    """The server never sees a lost command."""
    async with connected(proxy) as client:
        await client.set(prefix, "1")
        proxy.lose_requests()
        with pytest.raises(BrokenError):
            await client.incr(prefix)
        assert proxy.counts == {"SET": 1}
        assert await client.get(prefix) == b"1"


async def test_hanging_loss_keeps_the_connection_open(proxy: Proxy, prefix: str) -> None:
    """With `hang` a lost reply leaves the client waiting for its own time limit."""
    async with connected(proxy, patience=0.1) as client:
        proxy.lose_replies(hang=True)
        with pytest.raises(LateError):
            await client.incr(prefix)
        assert await client.get(prefix) == b"1"


async def test_random_losses_repeat(server: Server) -> None:
    """The same seed loses the same replies."""

    async def outcomes(seed: int) -> list[bool]:
        async with Proxy(server, seed=seed) as proxy, connected(proxy) as client:
            proxy.reply_loss = 0.3
            return [await survives(client) for _ in range(20)]

    first = await outcomes(1)
    assert first == await outcomes(1)
    assert len(set(first)) == 2


async def survives(client: redis.asyncio.Redis) -> bool:
    """Whether a PING is answered."""
    try:
        return bool(await client.ping())
    except BrokenError:
        return False


async def test_dead_server_closes_the_connection(fresh_server: Callable[..., Server]) -> None:
    """When the server dies its clients see it, and the proxy finds it again when it is back."""
    server = fresh_server()
    async with Proxy(server) as proxy, connected(proxy) as client:
        server.kill()
        await eventually(lambda: not proxy.connections, "the connection to end")
        with pytest.raises(BrokenError):
            await client.ping()
        server.start()
        assert await client.ping()


async def test_closing_frees_everything(server: Server) -> None:
    """A closed proxy has no connection left."""
    async with Proxy(server) as proxy, connected(proxy) as client:
        await client.ping()
        assert proxy.connections == 1
    assert proxy.connections == 0
