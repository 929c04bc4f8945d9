"""The auth service in process: users, the witness, and faults that all its replicas share and that end."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from apps.auth import app as auth_app
from apps.auth import stats as stats_module
from apps.auth.faults import Fault, Faults
from apps.auth.settings import Settings
from apps.shared.connection import BrokenOffError
from apps.shared.redis import connect
from apps.shared.settings import RedisSettings, SettingsError
from tests.apps.running import comes, problem, served
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import eventually

Auths = Callable[..., Awaitable[httpx.AsyncClient]]


async def test_users(auth: Auths) -> None:
    """Auth says a user's roles and validity, and refuses those who are unknown, blocked, or no longer valid."""
    client = await auth()
    response = await client.get("/users/ada")
    roles = ["admin", "editor"]
    assert response.json() == {"user_id": "ada", "roles": roles, "valid_until": None, "valid_for_seconds": None}
    alan = (await client.get("/users/alan")).json()
    assert (alan["roles"], alan["valid_until"]) == (["editor"], "2100-01-01T00:00:00+00:00")
    assert alan["valid_for_seconds"] > 1e9
    assert problem(await client.get("/users/mallory"), 403) == "the user is blocked"
    assert problem(await client.get("/users/edsger"), 403) == "the user's validity is over"
    assert problem(await client.get("/users/nobody"), 404) == "there is no such user"
    problem(await client.get("/users/%2e%2e"), 400)


async def test_users_are_a_file(auth: Auths, tmp_path: Any) -> None:
    """The users come from the file of the setting; what is wrong with it is told with its place."""
    file = tmp_path / "users.json"
    file.write_text('{"zoe": {"roles": ["reader"]}}')
    assert (await (await auth(users_path=file)).get("/users/zoe")).json()["roles"] == ["reader"]
    file.write_text('{"zoe": {"roles": [1], "token": "x"}, "../x": {}}')
    with pytest.raises(SettingsError) as caught:
        auth_app.create_app(Settings(users_path=file))
    places = [line.split(": ")[2] for line in caught.value.problems]
    assert places == ["zoe.roles.0", "zoe.token", "../x.[key]"]


async def test_token(auth: Auths) -> None:
    """With a token set, callers must show it."""
    client = await auth(token="hunter2", faults=True)
    for header in ("", "Bearer hunter1", "Basic hunter2", "Bearer hunter2 "):
        response = await client.get("/users/ada", headers={"authorization": header} if header else {})
        problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    assert (await client.get("/stats")).json()["received"] == 4
    problem(await client.delete("/faults"), 401)
    assert (await client.get("/users/ada", headers={"authorization": "bearer hunter2"})).status_code == 200


async def test_witness_counts_what_arrives(auth: Auths, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives for users is counted by the caller's replica and by minute, however it ends; nothing else is."""
    monkeypatch.setattr(stats_module, "_MOST_REPLICAS", 2)
    client = await auth(faults=True)
    await client.put("/faults", json={"kind": "error", "expires_seconds": 60})
    for replica in ("p-1", "p-1", "p-2", "p-3", "a b", "x" * 300, ""):
        await client.get("/users/ada", headers={"x-replica": replica})
    await client.get("/users/..")
    await client.get("/healthz")
    report = (await client.get("/stats")).json()
    assert (report["received"], report["by_replica"]) == (7, {"p-1": 2, "p-2": 1, "other": 4})
    assert sum(report["by_minute"].values()) == 7
    assert all(minute.endswith(":00Z") for minute in report["by_minute"])


def test_witness_keeps_the_last_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes are kept for an hour of traffic, then go; the total stays."""
    witness = stats_module.Stats()
    begin = time.time()
    for minute in range(70):
        monkeypatch.setattr(time, "time", lambda minute=minute: begin + 60 * minute)
        witness.arrived("p")
    report = witness.report()
    assert (report["received"], len(report["by_minute"])) == (70, 60)


async def test_faults_are_off(auth: Auths, server: Server, prefix: str) -> None:
    """Without its setting no fault can be ordered, and one that stands in Redis is not obeyed."""
    server.cli("SET", f"{prefix}:faults:auth", '{"kind":"error","expires_seconds":60}')
    client = await auth()
    for method in ("GET", "PUT", "DELETE"):
        assert "AUTH_FAULTS" in problem(await client.request(method, "/faults"), 404)
    assert (await client.get("/users/ada")).status_code == 200


async def test_errors_are_ordered(auth: Auths) -> None:
    """An error has the status and the Retry-After that were ordered, until it is taken back."""
    client = await auth(faults=True)
    fault = {"kind": "error", "status": 429, "retry_after_seconds": 7, "expires_seconds": 60}
    response = await client.put("/faults", json=fault)
    assert response.json() == {
        **fault,
        "rate": 1.0,
        "latency_seconds": 0.0,
        "expires_seconds": pytest.approx(60, abs=1),
    }
    spoilt = await client.get("/users/ada")
    assert problem(spoilt, 429) == "a fault was ordered"
    assert spoilt.headers["retry-after"] == "7"
    assert (await client.get("/faults")).json()["kind"] == "error"
    assert (await client.delete("/faults")).json() is None
    assert (await client.get("/users/ada")).status_code == 200


async def test_rate(auth: Auths) -> None:
    """A rate of a half spoils about a half."""
    client = await auth(faults=True, access_log=False)
    await client.put("/faults", json={"kind": "error", "rate": 0.5, "expires_seconds": 60})
    statuses = [(await client.get("/users/ada")).status_code for _ in range(200)]
    assert 60 < statuses.count(503) < 140  # beyond, one run in a hundred million
    assert set(statuses) == {200, 503}


async def test_slow(auth: Auths) -> None:
    """A slow answer is the right one, late."""
    client = await auth(faults=True)
    await client.put("/faults", json={"kind": "slow", "latency_seconds": 0.1, "expires_seconds": 60})
    started = time.monotonic()
    assert (await client.get("/users/ada")).status_code == 200
    assert time.monotonic() - started >= 0.1


async def asked(client: httpx.AsyncClient) -> "asyncio.Task[httpx.Response]":
    """Ask for a user; the question has arrived, and waits for its answer."""
    waiting = asyncio.create_task(client.get("/users/ada"))

    async def arrived() -> bool:
        return bool((await client.get("/stats")).json()["received"] == 1)

    await comes(arrived, "the request to arrive")
    assert not waiting.done()
    return waiting


OTHER = {"kind": "error", "rate": 0, "expires_seconds": 60}


@pytest.mark.parametrize("kind", ["slow", "error"])
@pytest.mark.parametrize("end", [{"method": "DELETE"}, {"method": "PUT", "json": OTHER}], ids=["back", "replaced"])
async def test_a_late_fault_ends_with_its_order(end: dict[str, Any], kind: str, auth: Auths) -> None:
    """Who waits for a late fault gets what auth has to say as soon as the fault is taken back or replaced."""
    client = await auth(faults=True)
    await client.put("/faults", json={"kind": kind, "latency_seconds": 50, "expires_seconds": 60})
    waiting = await asked(client)
    assert (await client.request(url="/faults", **end)).status_code == 200
    answer = await asyncio.wait_for(waiting, 5)
    assert (answer.status_code, answer.json()["user_id"]) == (200, "ada")


async def test_a_late_fault_ends_at_drain(redis_url: str, prefix: str) -> None:
    """Who waits for a late fault is answered well as soon as auth drains."""
    app = auth_app.create_app(Settings(redis_url=redis_url, redis_prefix=prefix, faults=True))
    async with served(app) as client:
        await client.put("/faults", json={"kind": "error", "latency_seconds": 50, "expires_seconds": 60})
        waiting = await asked(client)
        app.state.health.drain()
        assert (await asyncio.wait_for(waiting, 5)).status_code == 200


async def test_roles_are_kept_by_nobody_in_between(auth: Auths) -> None:
    """No cache may answer with the roles that a user had."""
    assert (await (await auth()).get("/users/ada")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["truncate", "refuse"])
async def test_broken_off(kind: str, auth: Auths) -> None:
    """A truncated answer and a refused one end before their time; who is unknown is so still."""
    client = await auth(faults=True)
    await client.put("/faults", json={"kind": kind, "expires_seconds": 60})
    with pytest.raises(BrokenOffError):
        await client.get("/users/ada")
    if kind == "truncate":
        problem(await client.get("/users/nobody"), 404)


async def test_hanging_ends_with_the_fault(auth: Auths) -> None:
    """Who hangs is let go when the fault is taken back, without an answer."""
    client = await auth(faults=True)
    await client.put("/faults", json={"kind": "hang", "expires_seconds": 60})
    hanging = await asked(client)
    await client.delete("/faults")
    with pytest.raises(BrokenOffError):
        await asyncio.wait_for(hanging, 1)


async def test_all_replicas_share_it(auth: Auths) -> None:
    """A fault holds for every replica of auth within 200 ms, and ends for all."""
    one, other = await auth(faults=True), await auth(faults=True)

    async def spoilt() -> bool:
        return (await other.get("/users/ada")).status_code == 503

    async def well() -> bool:
        return not await spoilt()

    await one.put("/faults", json={"kind": "error", "expires_seconds": 60})
    assert await comes(spoilt, "the fault") < 0.2
    await one.delete("/faults")
    assert await comes(well, "its end") < 0.2


async def test_no_fault_outlives_its_time(auth: Auths, server: Server, prefix: str) -> None:
    """A fault ends by itself, in Redis too, and none can be ordered beyond the setting."""
    client = await auth(faults=True, fault_max_seconds=5)
    fault = {"kind": "error", "expires_seconds": 0.2}
    assert (await client.put("/faults", json=fault)).status_code == 200
    assert (await client.get("/users/ada")).status_code == 503
    assert 0 < int(server.cli("PTTL", f"{prefix}:faults:auth")) <= 200
    await eventually(lambda: not server.cli("EXISTS", f"{prefix}:faults:auth"), "the key to expire")
    assert (await client.get("/users/ada")).status_code == 200
    detail = problem(await client.put("/faults", json={**fault, "expires_seconds": 5.1}), 400)
    assert detail == "expires_seconds: a fault lasts at most 5 s"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"kind": "error"}, "expires_seconds: field required"),
        ({"kind": "fire", "expires_seconds": 1}, "kind: input should be"),
        ({"kind": "error", "expires_seconds": 1, "rate": 2}, "rate: input should be less than or equal to 1"),
        ({"kind": "error", "expires_seconds": 1, "status": 200, "x": 1}, "status: .*; x: extra inputs"),
        ({"kind": "error", "expires_seconds": -1}, "expires_seconds: input should be greater than 0"),
        ([], "body: input should be an object"),
    ],
    ids=["no end", "no kind", "rate", "two", "past", "list"],
)
async def test_wrong_orders(body: Any, detail: str, auth: Auths) -> None:
    """A fault that cannot be is refused with all that is wrong, by field."""
    client = await auth(faults=True)
    assert re.search(detail, problem(await client.put("/faults", json=body), 400))
    problem(await client.put("/faults", content=b"{"), 400)
    problem(await client.put("/faults", content=b" " * 5000), 413)
    assert (await client.get("/faults")).json() is None


async def test_redis_away(auth: Auths, proxy: Proxy) -> None:
    """Without Redis auth answers; no fault can be ordered, and the one that stood ends at its time."""
    client = await auth(faults=True, redis_url=proxy.url)
    await client.put("/faults", json={"kind": "error", "expires_seconds": 0.3})
    proxy.refuse()
    proxy.cut()
    assert (await client.get("/users/ada")).status_code == 503
    response = await client.put("/faults", json={"kind": "error", "expires_seconds": 60})
    assert problem(response, 503) == "faults are kept in Redis, which does not answer"

    async def well() -> bool:
        return (await client.get("/users/ada")).status_code == 200

    async def taken_back() -> bool:
        return (await client.delete("/faults")).status_code == 200

    await comes(well, "the end of the fault")
    await proxy.accept()
    await comes(taken_back, "Redis to be found again")


async def test_order_is_not_undone_by_an_earlier_look(redis_url: str, prefix: str) -> None:
    """What a look had found before an order was given does not undo the order."""
    faults = Faults(connect(RedisSettings(redis_url=redis_url)), prefix)
    looked, go = asyncio.Event(), asyncio.Event()

    async def slow_look() -> tuple[str | None, float]:
        looked.set()
        await go.wait()
        go.clear()
        return None, 0.0

    faults._look = slow_look
    async with faults.watching():
        await looked.wait()
        await faults.order(Fault(kind="error", expires_seconds=60))
        looked.clear()
        go.set()
        await looked.wait()
        assert faults.now


async def test_garbage_in_redis_is_no_fault(auth: Auths, server: Server, prefix: str) -> None:
    """What is no fault in the key of faults spoils nothing."""
    server.cli("SET", f"{prefix}:faults:auth", "garbage")
    client = await auth(faults=True)
    assert (await client.get("/users/ada")).status_code == 200
    assert (await client.put("/faults", json={"kind": "error", "expires_seconds": 60})).status_code == 200
    server.cli("DEL", f"{prefix}:faults:auth")
    server.cli("RPUSH", f"{prefix}:faults:auth", "x")
    assert (await client.get("/users/ada")).status_code == 503
    assert (await client.delete("/faults")).status_code == 200
    assert (await client.get("/users/ada")).status_code == 200
