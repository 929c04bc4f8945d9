"""Profile's client of auth: for each thing that auth can do, what the user gets and what the breaker counted."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx

from commontrip import Outcome, State
from tests.apps.conftest import AUTH, Profiles
from tests.apps.running import problem, refusing
from tests.support.servers import Server
from tests.support.waiting import eventually

JSON = {"content-type": "application/json"}


def given(user: str = "ada", *roles: str, **more: Any) -> httpx.Response:
    """What auth says of a user."""
    return httpx.Response(200, json={"user_id": user, "roles": roles or ["admin"], **more})


class Body(httpx.AsyncByteStream):
    """A body that sends something and then fails, or takes its time."""

    def __init__(self, *chunks: bytes, error: Exception | None = None, pause: float = 0) -> None:
        self._chunks, self._error, self._pause = chunks, error, pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            await asyncio.sleep(self._pause)
            yield chunk
        if self._error:
            raise self._error


HALF = b'{"user_id": "ada", "roles": ["\\ud800"]}'
START = b'{"user_id": "ada", "roles": ["adm'
BROKEN = httpx.RemoteProtocolError("peer closed connection without sending complete message body")
BIG = Body(START, b'in"], "more": "', *[b"x" * 65_536] * 160, b'"}')
Said = httpx.Response | Exception

CASES: dict[str, tuple[Said, str | None, Outcome]] = {
    "401": (httpx.Response(401), "credentials", Outcome.SUCCESS),
    "400": (httpx.Response(400), "failed", Outcome.SUCCESS),
    "302": (httpx.Response(302, headers={"location": "http://elsewhere.test/"}), "failed", Outcome.SUCCESS),
    "204": (httpx.Response(204), "failed", Outcome.SUCCESS),
    "429": (httpx.Response(429, headers={"retry-after": "7"}), "failed", Outcome.FAILURE),
    "500": (httpx.Response(500), "failed", Outcome.FAILURE),
    "503": (httpx.Response(503, headers={"retry-after": "7"}), "failed", Outcome.FAILURE),
    "500, broken": (httpx.Response(500, stream=Body(b"x", error=BROKEN)), "failed", Outcome.FAILURE),
    "refused": (httpx.ConnectError("refused"), "failed", Outcome.FAILURE),
    "connect timeout": (httpx.ConnectTimeout("slow"), "timeout", Outcome.FAILURE),
    "read timeout": (httpx.ReadTimeout("slow"), "timeout", Outcome.FAILURE),
    "reset": (httpx.ReadError("reset"), "failed", Outcome.FAILURE),
    "no free connection": (httpx.PoolTimeout("full"), "saturated", Outcome.IGNORED),
    "broken body": (httpx.Response(200, headers=JSON, stream=Body(START, error=BROKEN)), "failed", Outcome.FAILURE),
    "trickling": (httpx.Response(200, headers=JSON, stream=Body(*[b" "] * 99, pause=0.02)), "timeout", Outcome.FAILURE),
    "malformed": (httpx.Response(200, headers=JSON, content=START), "failed", Outcome.FAILURE),
    "nested": (httpx.Response(200, headers=JSON, content=b"[" * 50_000), "failed", Outcome.FAILURE),
    "not text": (httpx.Response(200, headers=JSON, content=b"\xff\xfe\x00"), "failed", Outcome.FAILURE),
    "no object": (httpx.Response(200, json=["admin"]), "failed", Outcome.FAILURE),
    "no roles": (httpx.Response(200, json={"user_id": "ada"}), "failed", Outcome.FAILURE),
    "odd roles": (httpx.Response(200, json={"user_id": "ada", "roles": "admin"}), "failed", Outcome.FAILURE),
    "half a character": (httpx.Response(200, headers=JSON, content=HALF), "failed", Outcome.FAILURE),
    "odd validity": (given(valid_for_seconds=-1), "failed", Outcome.FAILURE),
    "another user's": (given("eve", "root"), "failed", Outcome.FAILURE),
    "wrong type": (
        httpx.Response(200, headers={"content-type": "text/html"}, content=given().content),
        "failed",
        Outcome.FAILURE,
    ),
    "10 MB": (httpx.Response(200, headers=JSON, stream=BIG), "failed", Outcome.FAILURE),
}


def say(upstream: respx.MockRouter, said: Said, user: str = "ada") -> None:
    """Let auth say this from now on."""
    route = upstream.get(f"{AUTH}/users/{user}")
    route.mock(side_effect=said) if isinstance(said, Exception) else route.mock(return_value=said)


@pytest.mark.parametrize("case", CASES)
async def test_no_usable_answer(case: str, profile: Profiles, upstream: respx.MockRouter) -> None:
    """Whatever auth does but answer: a user gets what auth last gave, a new one no roles; the breaker counts it."""
    said, reason, outcome = CASES[case]
    replica = await profile(auth_timeout_seconds=0.3)
    say(upstream, given("ada", "admin", valid_for_seconds=60))
    assert (await replica.auth())["source"] == "live"
    before = dict(replica.breaker.snapshot.calls)
    for user in ("ada", "grace"):
        say(upstream, said, user)
    stale, unknown = await replica.auth("ada"), await replica.auth("grace")
    assert (stale["source"], stale["roles"], stale["reason"]) == ("stale", ["admin"], reason)
    assert 0 <= stale["age_seconds"] < 5
    assert 50 < stale["valid_for_seconds"] <= 60
    expected = {"source": "unknown", "roles": [], "age_seconds": None, "refused": False, "reason": reason}
    assert unknown == {**expected, "valid_for_seconds": None}
    after = replica.breaker.snapshot.calls
    assert {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]} == {outcome: 2}


@pytest.mark.parametrize(
    ("response", "roles", "refused"),
    [
        (given("ada", "admin"), ["admin"], False),
        (httpx.Response(200, json={"user_id": "ada", "roles": []}), [], False),
        (httpx.Response(403), [], True),
        (httpx.Response(404), [], True),
        (httpx.Response(410, stream=Body(b"gone")), [], True),
        (httpx.Response(403, stream=BIG), [], True),
        (httpx.Response(404, stream=Body(b"no", error=BROKEN)), [], True),
        (httpx.Response(403, stream=Body(*[b" "] * 99, pause=0.02)), [], True),
        (given("ada", "b", "a", "b"), ["a", "b"], False),
        (given("ada", "admin", valid_for_seconds=1.7976931348623157e308), ["admin"], False),
        (given("ada", "admin", valid_for_seconds=10**400), ["admin"], False),
    ],
    ids=[
        *("200", "200 without roles", "403", "404", "410", "403, 10 MB", "404, broken", "403, trickling"),
        *("roles in disorder", "valid for ever", "valid for longer than that"),
    ],
)
async def test_answer(
    response: httpx.Response, roles: list[str], *, refused: bool, profile: Profiles, upstream: respx.MockRouter
) -> None:
    """What auth says is what the user gets: roles, or none where auth refuses; for the breaker both are successes."""
    replica = await profile(auth_timeout_seconds=0.3)
    say(upstream, response)
    expected = {"source": "live", "age_seconds": 0.0, "roles": roles, "refused": refused, "reason": None}
    assert await replica.auth() == {**expected, "valid_for_seconds": None}
    calls = replica.breaker.snapshot.calls
    assert (calls[Outcome.SUCCESS], sum(calls.values())) == (1, 1)


@pytest.mark.parametrize("given_for", [None, 1.7976931348623157e308])
async def test_whatever_auth_says_is_written_down(
    given_for: float | None, profile: Profiles, upstream: respx.MockRouter, server: Server, prefix: str
) -> None:
    """An odd answer about one user does not end the memory of what is said of others."""
    replica = await profile()
    for user, until in (("ada", given_for), ("grace", None)):
        say(upstream, given(user, "admin", valid_for_seconds=until), user)
        await replica.auth(user)
        await eventually(lambda: bool(server.cli("EXISTS", f"{prefix}:profile:known:{user}")), user)  # noqa: B023
    say(upstream, httpx.Response(500))
    assert (await replica.auth())["roles"] == ["admin"]


@pytest.mark.parametrize("status", [403, 404])
async def test_refusal_is_not_forgotten(status: int, profile: Profiles, upstream: respx.MockRouter) -> None:
    """What auth refuses is forgotten by every replica, though each of them had it."""
    one, other = await profile(), await profile()
    say(upstream, given("ada", "admin"))
    for replica in (one, other):
        assert (await replica.auth())["roles"] == ["admin"]
    say(upstream, httpx.Response(status))
    assert (await one.auth())["refused"]
    say(upstream, httpx.Response(500))
    for replica in (one, other):
        assert (await replica.auth())["source"] == "unknown"


async def test_late_answer_does_not_bring_back_what_was_refused(profile: Profiles, upstream: respx.MockRouter) -> None:
    """An answer under way while another replica hears a refusal is given to its own caller, and not remembered."""
    one, other = await profile(), await profile()
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slowly(_: httpx.Request) -> httpx.Response:
        arrived.set()
        await go.wait()
        return given("ada", "admin")

    upstream.get(f"{AUTH}/users/ada").mock(side_effect=slowly)
    late = asyncio.create_task(one.auth())
    await arrived.wait()
    say(upstream, httpx.Response(403))
    assert (await other.auth())["refused"]
    go.set()
    assert (await late)["source"] == "live"
    say(upstream, httpx.Response(500))
    assert [(await replica.auth())["source"] for replica in (one, other)] == ["unknown", "unknown"]


async def test_wrong_credentials_wipe_nothing_and_are_said_once(
    profile: Profiles, upstream: respx.MockRouter, logged: pytest.LogCaptureFixture
) -> None:
    """A 401 is our own mistake: one clear error a minute, and what is known stays known."""
    replica = await profile(auth_token="hunter2")
    say(upstream, given("ada", "admin"))
    await replica.auth()
    say(upstream, httpx.Response(401))
    for _ in range(5):
        assert (await replica.auth())["source"] == "stale"
    errors = [record.getMessage() for record in logged.records if record.levelno >= logging.ERROR]
    assert errors == ["auth does not accept our credentials: check PROFILE_AUTH_TOKEN"]
    assert "hunter2" not in logged.text


async def test_what_is_asked(profile: Profiles, upstream: respx.MockRouter) -> None:
    """Auth is told who asks, for which request and in which trace, with our credentials and nothing of the client's."""
    replica = await profile(auth_token="hunter2", replica="profile-7")
    say(upstream, httpx.Response(200, headers={**JSON, "set-cookie": "session=1"}, content=given().content))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": trace, "x-request-id": "abc", "authorization": "Bearer theirs", "cookie": "a=b"}
    for _ in range(2):
        await replica.client.get("/profile/ada", headers=headers)
    for call in upstream.calls:
        sent = call.request.headers
        assert (sent["x-replica"], sent["x-request-id"], sent["traceparent"]) == ("profile-7", "abc", trace)
        assert sent["authorization"] == "Bearer hunter2"
        assert "cookie" not in sent


async def test_nothing_but_roles_is_kept(
    profile: Profiles, upstream: respx.MockRouter, server: Server, prefix: str
) -> None:
    """A session token in auth's answer is neither passed on nor stored anywhere."""
    replica = await profile()
    say(upstream, given("ada", "admin", session_token="hunter2", email="ada@example.org"))
    response = await replica.client.get("/profile/ada")
    assert response.headers["cache-control"] == "no-store"
    assert "hunter2" not in response.text
    key = f"{prefix}:profile:known:ada"
    await eventually(lambda: bool(server.cli("EXISTS", key)), "the batch")
    assert server.cli("HKEYS", key) == [json.dumps(["admin"])]
    say(upstream, httpx.Response(500))
    assert (await replica.auth())["roles"] == ["admin"]


@pytest.mark.parametrize(("fallback", "source"), [("stale", "stale"), ("unknown", "unknown")])
async def test_open_circuit(fallback: str, source: str, profile: Profiles, upstream: respx.MockRouter) -> None:
    """With the circuit open no call reaches auth, and the setting chooses what the user gets."""
    replica = await profile(fallback=fallback, breaker_failure_rate=0, breaker_consecutive_failures=2)
    say(upstream, given("ada", "admin"))
    await replica.auth()
    say(upstream, httpx.Response(500))
    for _ in range(2):
        assert (await replica.auth())["reason"] == "failed"
    await eventually(lambda: replica.breaker.state == State.OPEN, "the circuit to open")
    arrived = len(upstream.calls)
    answer = await replica.auth()
    assert (answer["source"], answer["reason"]) == (source, "circuit_open")
    assert len(upstream.calls) == arrived


async def test_large_answer_is_not_read(profile: Profiles, upstream: respx.MockRouter) -> None:
    """Of an answer that is too large no more is read than it takes to know that."""
    read = 0

    class Counted(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(1000):
                read += 10_000
                yield b" " * 10_000

    say(upstream, httpx.Response(200, headers=JSON, stream=Counted()))
    assert (await (await profile()).auth())["source"] == "unknown"
    assert read == 70_000


async def test_fallback_fail(profile: Profiles, upstream: respx.MockRouter) -> None:
    """With the fallback `fail` the user gets 503 with Retry-After, auth's own or the cooldown's."""
    settings = {"breaker_failure_rate": 0, "breaker_consecutive_failures": 2, "breaker_cooldown_jitter": 0}
    replica = await profile(fallback="fail", breaker_cooldown_seconds=30, **settings)
    say(upstream, httpx.Response(500))
    response = await replica.client.get("/profile/ada")
    assert problem(response, 503) == "auth cannot be asked: failed"
    assert response.headers["retry-after"] == "1"
    say(upstream, httpx.Response(503, headers={"retry-after": "7"}))
    response = await replica.client.get("/profile/ada")
    assert response.headers["retry-after"] == "7"
    await eventually(lambda: replica.breaker.state == State.OPEN, "the circuit to open")
    response = await replica.client.get("/profile/ada")
    assert problem(response, 503) == "auth cannot be asked: circuit_open"
    assert 25 <= int(response.headers["retry-after"]) <= 30


async def test_one_fleet(profile: Profiles, upstream: respx.MockRouter, server: Server, prefix: str) -> None:
    """One replica's failures open the circuit of all, and none of them asks auth."""
    one, other = [await profile(breaker_failure_rate=0, breaker_consecutive_failures=3) for _ in range(2)]
    say(upstream, given("ada", "admin"))
    await other.auth()
    await eventually(lambda: bool(server.cli("EXISTS", f"{prefix}:profile:known:ada")), "the batch")
    say(upstream, httpx.Response(500))
    for _ in range(3):
        await one.auth()
    await eventually(lambda: other.breaker.state == State.OPEN, "the other replica to learn")
    arrived = len(upstream.calls)
    assert [(await replica.auth())["source"] for replica in (one, other)] == ["stale", "stale"]
    assert len(upstream.calls) == arrived


async def test_waiting_for_a_connection_of_our_own_is_not_auths_time(
    profile: Profiles, upstream: respx.MockRouter
) -> None:
    """Who had to wait until a connection was free gives auth as long as anybody does, and no longer."""
    replica = await profile(auth_connections=1, auth_timeout_seconds=0.8, auth_connect_seconds=0.75)
    takes = 0.5

    async def slowly(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(takes)
        return given("ada", "admin")

    upstream.get(f"{AUTH}/users/ada").mock(side_effect=slowly)
    assert [auth["source"] for auth in await asyncio.gather(replica.auth(), replica.auth())] == ["live", "live"]
    assert replica.breaker.snapshot.calls[Outcome.FAILURE] == 0
    takes = 1.2
    assert (await replica.auth())["reason"] == "timeout"


async def test_without_a_breaker(profile: Profiles, upstream: respx.MockRouter) -> None:
    """The breaker can be switched off: every call reaches auth, nothing is counted, the fallback stays."""
    replica = await profile(breaker_enabled=False, breaker_minimum_calls=1)
    say(upstream, httpx.Response(500))
    for _ in range(5):
        assert (await replica.auth())["reason"] == "failed"
    assert len(upstream.calls) == 5
    assert sum(replica.breaker.snapshot.calls.values()) == 0


async def test_redis_away(profile: Profiles, upstream: respx.MockRouter) -> None:
    """Without Redis requests are answered: live from auth, and what this replica remembers when that fails."""
    replica = await profile(redis_url=refusing().replace("http", "redis"))
    say(upstream, given("ada", "admin"))
    assert (await replica.auth())["source"] == "live"
    for user in ("ada", "grace"):
        say(upstream, httpx.Response(500), user)
    assert [(await replica.auth(user))["source"] for user in ("ada", "grace")] == ["stale", "unknown"]
