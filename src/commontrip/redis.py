"""`RedisStore`: one circuit's memory in Redis 6.2 to 8 or Valkey; alone, behind Sentinel, or a Cluster.

Keys of a breaker `auth` (prefix `cb`; in a Cluster the name is a hash tag, `cb:{auth}:…`). Every one has a TTL.

    cb:auth:state failures lastFailure cooldown   for people: derived from the record, except for the counts
    cb:auth:transitions                           stream of every transition, capped
    cb:auth:v1:epoch                              the record of the last transition: the one truth
    cb:auth:v1:window probes override learned     counts; leases; an operator's note; who learned how late
    cb:auth:v1:told                               which transitions have been told to a collector
    cb:auth:v1:seen:REPLICA                       a replica's last batch
    cb:replicas                                   who is in the fleet
    cb:events                                     channel of all transitions of all breakers

`v1` is the layout. Another layout has working keys of its own and meets this one in `state`, which either
obeys as if SET by hand: two releases in one rolling deploy agree, and cannot corrupt each other.
"""

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib import resources
from typing import Any, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from commontrip import _check
from commontrip._counts import Counts
from commontrip._errors import StoreSilentError, StoreUnavailableError
from commontrip._redis_url import connect
from commontrip._redis_url import with_login as with_login  # noqa: PLC0414 - services pass a login too
from commontrip._state import State
from commontrip._store import TOO_OLD, Ask, Batch, Change, Lease, Settlement, View, chunks
from commontrip._transition import FIELDS, Transition, parse, word

T = TypeVar("T")

LAYOUT = "v1"
_TROUBLE = (RedisError, RedisClusterException, OSError)
_READABLE = ("state", "failures", "lastFailure", "cooldown")
_PARTS = {
    "read": ("common", "window", "commit", "read"),
    "record": ("common", "window", "record"),
    "transition": ("common", "commit", "transition"),
    "lease": ("common", "commit", "lease"),
    "settle": ("common", "commit", "settle"),
    "presence": ("common", "presence"),
    "learned": ("common", "learned"),
    "members": ("common", "members"),
    "told": ("common", "told"),
    "untold": ("common", "untold"),
}
# What servers from 6.2 on say of missing rights, the last three inside a script.
_DENIED = ("NOPERM", "NOAUTH", "WRONGPASS", "ACL failure", "can't run this command", "can't access")
# Breakers in one command: a script takes 1 ms at the server, an MGET less.
_MOST = {"read": 20, "record": 20, "look": 500}
_MOST_HISTORY = 200  # transitions in one answer
_TOLD = 3600.0  # seconds for which it is remembered that a transition has been told
_LONGEST_LAG = 12  # digits, of ms
_LANES = 8  # connections that one process uses at once


class _Script:
    """A script: its text, and the hash by which the server knows it."""

    def __init__(self, parts: Sequence[str]) -> None:
        folder = resources.files("commontrip") / "lua"
        self.text = "\n".join((folder / f"{part}.lua").read_text() for part in parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """The shared store. One per process and event loop, safe to share between tasks; `Breakers` starts and closes it.

    Each call is one round trip by EVALSHA (a server that lost its script cache costs one more); retries are the
    caller's, who knows what is idempotent. Redis's TIME is the only clock.
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "cb",
        ttl: float = 600.0,
        history: int = 100,
    ) -> None:
        """Use a client made elsewhere: it must decode responses, have no retries, and is closed with the store.

        Args:
            client: a `redis.asyncio` client; `from_url` makes a right one.
            prefix: first part of every key, 1 to 200 of A-Z a-z 0-9 . _ -; two installations need two.
            ttl: seconds for which an unused breaker is remembered, 60 to 2,592,000.
            history: transitions kept per breaker, about, 10 to 100,000.
        """
        self.prefix = _check.name("prefix", prefix)
        self.ttl = _check.number("ttl", ttl, 60, 2_592_000)
        self.client = client
        self._cluster = isinstance(client, RedisCluster)
        self._head = (round(ttl * 1000), f"{prefix}:events", _check.whole("history", history, 10, 100_000))
        self._scripts = {name: _Script(parts) for name, parts in _PARTS.items()}
        self._lanes = asyncio.Semaphore(_LANES)
        self._listener: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "cb", ttl: float = 600.0, history: int = 100) -> "RedisStore":
        """Make a store from an address; connects nowhere yet. A wrong address is a `ValueError`.

        `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS), `unix://[user:password@]/path[?db=n]`,
        `redis+sentinel://[user:password@]host[:port],…/service[?db=n&sentinel_username=…&sentinel_password=…]`,
        `redis+cluster://[user:password@]host[:port],…`; the last two also as `rediss+…`.
        """
        return cls(connect(url), prefix=prefix, ttl=ttl, history=history)

    async def start(self, heard: Callable[[str, str], None], gap: Callable[[], None]) -> None:
        """Listen, open connections and load the scripts, so that no call pays for it; raises if the store is away."""
        self._listener = asyncio.create_task(self._listen(heard, gap), name="commontrip listens")
        await self._warm()

    async def _warm(self) -> None:
        with self._mapped("start"):
            # One after another: the fleet has more replicas than Redis connections.
            for script in self._scripts.values():
                await self.client.script_load(script.text)

    async def aclose(self) -> None:
        """Stop listening and disconnect; idempotent."""
        if self._listener:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        with contextlib.suppress(*_TROUBLE):
            await self.client.aclose()
            if not self._cluster:
                await self.client.connection_pool.disconnect()  # which a client made by Sentinel leaves open
        sentinel = getattr(getattr(self.client, "connection_pool", None), "sentinel_manager", None)
        for one in sentinel.sentinels if sentinel else ():
            with contextlib.suppress(*_TROUBLE):
                await one.aclose()

    async def _listen(self, heard: Callable[[str, str], None], gap: Callable[[], None]) -> None:
        pause = 0.05
        while True:
            pubsub = self.client.pubsub()
            try:
                if self._cluster:
                    await self.client.initialize()  # which its pubsub takes for granted
                await pubsub.subscribe(self._head[1])
                messages = pubsub.listen()
                while True:
                    message = await anext(messages)
                    pause = 0.05
                    if message["type"] == "message":
                        name, _, record = str(message["data"]).partition(" ")
                        heard(name, record)
                    else:  # a subscription, also when redis-py has silently connected again
                        gap()
            except _TROUBLE:
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
            finally:
                with contextlib.suppress(*_TROUBLE):
                    await pubsub.aclose()

    # -- the calls of the Store protocol; each docstring is there

    def commands(self, operation: str, breakers: int) -> int:
        """See `Store.commands`."""
        return math.ceil(breakers / self._most(operation))

    def _most(self, operation: str) -> int:
        """Return how many breakers fit in one command; in a Cluster each has a slot of its own."""
        return 1 if self._cluster else _MOST[operation]

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        """See `Store.read`."""

        def arguments(ask: Ask) -> tuple[Any, ...]:
            return (ask.name, int(ask.seed), ask.token, ask.replica, _ms(ask.window), _ms(ask.cooldown))

        return await self._each("read", asks, lambda ask: self._block(ask.name), arguments)

    async def record(self, batches: Sequence[Batch]) -> list[View]:
        """See `Store.record`."""

        def keys(batch: Batch) -> list[str]:
            epoch, state, failures, last, cooldown, window, *_ = self._block(batch.name)
            return [epoch, state, failures, last, window, f"{window[:-6]}seen:{batch.replica}", cooldown]

        def arguments(batch: Batch) -> tuple[Any, ...]:
            run = batch.run
            return (
                *(batch.epoch, batch.number, _ms(batch.deadline), run.calls, run.failures, run.slow),
                *(run.first, run.longest, run.last, int(run.unbroken), _ms(run.retry_after)),
                *(_ms(batch.window), int(batch.show_run)),
            )

        return await self._each("record", batches, keys, arguments)

    async def transition(self, change: Change) -> View:
        """See `Store.transition`."""
        c = change
        return await self._one(
            "transition",
            *(c.name, c.expected, c.token, c.to, _ms(c.remaining), _ms(c.cooldown), c.opens, c.reason, c.replica),
            *(c.failures, c.calls, word(c.error), word(c.cause), _ms(c.decided_at), _ms(TOO_OLD), c.floor),
            *(c.incarnation or c.token, c.override or "-", _ms(c.override_for), c.note, c.previous or "-"),
        )

    async def lease(self, lease: Lease) -> View:
        """See `Store.lease`."""
        ask = lease
        return await self._one(
            "lease",
            *(ask.name, ask.lease, _ms(ask.seconds), ask.probes, ask.token, ask.replica),
            *(word(ask.cause), int(ask.renew)),
        )

    async def settle(self, settlement: Settlement) -> View:
        """See `Store.settle`."""
        s = settlement
        return await self._one(
            "settle",
            *(s.name, s.lease, s.epoch, s.kind, s.probes, s.grid, s.token, s.replica, _ms(s.cooldown), s.opens),
            *(word(s.error), word(s.cause)),
        )

    async def look(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """See `Store.look`."""

        async def one(some: Sequence[str]) -> list[tuple[str, str]]:
            async with self._lanes:
                found = await self.client.mget([key for name in some for key in reversed(self._block(name)[:2])])
            return [(state or "", record or "") for state, record in chunks(found, 2)]

        with self._mapped("look"):
            found = await asyncio.gather(*map(one, chunks(names, self._most("look"))))
        return [pair for chunk in found for pair in chunk]

    async def history(self, name: str, count: int) -> list[tuple[Transition, str]]:
        """See `Store.history`; entries that are not ours are passed over."""
        found = []
        with self._mapped("history"):
            entries = await _or(self.client.xrevrange(self._block(name)[7], count=count), [])
        for _, entry in entries:
            with contextlib.suppress(ValueError, KeyError):
                found.append((parse(" ".join(entry[field] for field in FIELDS)), entry["note"]))
        return found

    async def presence(self, replica: str, seconds: float) -> int:
        """See `Store.presence`."""
        size, _ = await self._run("presence", [f"{self.prefix}:replicas"], replica, _ms(seconds))
        return int(size)

    async def learned(self, name: str, epoch: str, replica: str, lag: float) -> int:
        """See `Store.learned`."""
        block = self._block(name)
        return int(await self._run("learned", [block[0], block[9]], epoch, replica, _ms(lag)))

    async def told(self, name: str, epochs: Sequence[str]) -> None:
        """See `Store.told`."""
        await self._run("told", self._outbox(name)[1:], _ms(_TOLD), *epochs)

    async def untold(self, name: str, ages: tuple[float, float], turn: float) -> list[Transition]:
        """See `Store.untold`; a second round trip if there are any."""
        found = set(await self._run("untold", self._outbox(name), *map(_ms, ages), _ms(turn), _ms(_TOLD)))
        history = await self.history(name, _MOST_HISTORY) if found else []
        return [made for made, _ in reversed(history) if str(made.epoch) in found]

    async def fleet(self, name: str) -> dict[str, float | None]:
        """See `Store.fleet`; two round trips, at most 1,000 replicas."""
        with self._mapped("fleet"):
            members = await self._run("members", [f"{self.prefix}:replicas"])
            nobody = [None] * len(members)
            lags = await _or(self.client.hmget(self._block(name)[9], members), nobody) if members else nobody
        return {member: _lag(ms) for member, ms in zip(members, lags, strict=True)}

    # -- how a script is run

    def _block(self, name: str) -> list[str]:
        """Return the breaker's ten keys, in the order that `lua/common.lua` names."""
        base = f"{self.prefix}:{{{name}}}" if self._cluster else f"{self.prefix}:{name}"
        own = f"{base}:{LAYOUT}"
        return [
            *(f"{own}:epoch", *(f"{base}:{part}" for part in _READABLE), f"{own}:window", f"{own}:probes"),
            *(f"{base}:transitions", f"{own}:override", f"{own}:learned"),
        ]

    def _outbox(self, name: str) -> list[str]:
        """Return the stream, and the key that says which of its entries have been told."""
        *_, transitions, _, learned = self._block(name)
        return [transitions, learned.removesuffix("learned") + "told"]

    async def _one(self, script: str, name: str, *args: Any) -> View:
        return _view(await self._run(script, self._block(name), name, *args))

    async def _each(
        self, script: str, items: Sequence[T], keys: Callable[[T], list[str]], args: Callable[[T], tuple[Any, ...]]
    ) -> list[View]:
        async def some(chunk: Sequence[T]) -> list[View]:
            all_keys = [key for item in chunk for key in keys(item)]
            replies = await self._run(script, all_keys, *(arg for item in chunk for arg in args(item)))
            return [_view(reply) for reply in replies]

        views = await asyncio.gather(*map(some, chunks(items, self._most(script))))
        return [view for chunk in views for view in chunk]

    async def _run(self, name: str, keys: list[str], *args: Any) -> Any:
        script = self._scripts[name]
        with self._mapped(name):
            async with self._lanes:
                try:
                    return await self.client.evalsha(script.sha, len(keys), *keys, *self._head, *args)
                except NoScriptError:
                    return await self.client.eval(script.text, len(keys), *keys, *self._head, *args)

    @contextlib.contextmanager
    def _mapped(self, operation: str) -> Iterator[None]:
        """Turn whatever redis-py and the socket raise into the two errors of a store."""
        try:
            yield
        except _TROUBLE as error:
            if isinstance(error, ReadOnlyError) or "READONLY" in str(
                error
            ):  # a replica now: connect anew, to whoever is master
                self._leaving = asyncio.create_task(self._disconnect())
            raise _map(operation, error) from error

    async def _disconnect(self) -> None:
        with contextlib.suppress(*_TROUBLE):
            pool: Awaitable[None] = self.client.aclose() if self._cluster else self.client.connection_pool.disconnect()
            await pool


async def _or(reading: Awaitable[Any], otherwise: list[Any]) -> Any:
    """Await what is in a key; one of a wrong type holds nothing, and is written anew by whoever writes next."""
    try:
        return await reading
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        return otherwise


def _lag(ms: str | None) -> float | None:
    """Read how late a replica learned; what is no number of a sensible length was written by somebody else."""
    return int(ms) / 1000 if ms and ms.isdecimal() and len(ms) <= _LONGEST_LAG else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _map(operation: str, error: Exception) -> StoreUnavailableError:
    text = f"{type(error).__name__}: {error}"
    denied = any(words in text for words in _DENIED)
    if denied or isinstance(error, AuthenticationError | NoPermissionError):
        return StoreUnavailableError(operation, text, misconfigured=True)
    if isinstance(error, ResponseError | BusyLoadingError) or _refused(error):
        return StoreUnavailableError(operation, text)
    return StoreSilentError(operation, text)


def _refused(error: BaseException | None) -> bool:
    """Whether nobody is there, as against somebody who has stopped talking."""
    while error is not None and not isinstance(error, MaxConnectionsError):
        if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionResetError | BrokenPipeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _parsed(record: str) -> Transition:
    try:
        return parse(record)
    except ValueError as error:  # the scripts take a record that we do not: they are another release's
        raise StoreUnavailableError("read", str(error)) from error


def _view(reply: Sequence[Any]) -> View:
    status, record, now, by_hand, mended, calls, failures, slow, peak, run, retry_after, done, failed, live = reply
    return View(
        status=status,
        transition=_parsed(record) if record else None,
        now=now / 1000,
        by_hand=State(by_hand) if by_hand else None,
        mended=mended,
        counts=Counts(calls, failures, slow, peak, run),
        retry_after=retry_after / 1000,
        succeeded=done,
        failed=failed,
        in_flight=live,
    )
