"""`commontrip.starlette`: refusals, routes and events, spoken to as a server would."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from sse_starlette.sse import AppStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from commontrip import Breaker, Breakers, CircuitOpenError, MemoryStore, Report, State
from commontrip.redis import RedisStore
from commontrip.starlette import BreakerRoutes, _stream, circuit_open, lifespan
from commontrip.testing import FakeClock
from tests.breaker.site import ORDER, POLICY, TOKEN, Site, Watcher, body_of, trip
from tests.support.servers import Server
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def clock() -> FakeClock:
    """A clock to move."""
    return FakeClock()


@pytest.fixture
def board() -> BreakerRoutes:
    """The routes under test."""
    return BreakerRoutes(token=TOKEN)


@pytest.fixture
async def breakers(board: BreakerRoutes, clock: FakeClock) -> AsyncIterator[Breakers]:
    """The breakers of a process, one of which is used."""
    store = MemoryStore(clock=clock)
    async with Breakers(store, listeners=[board], clock=clock, replica="r1", store_budget=PATIENCE) as started:
        auth = started.get("auth", POLICY)
        async with auth:
            pass
        yield started


@pytest.fixture
def auth(breakers: Breakers) -> Breaker:
    """The breaker that is used."""
    return breakers.get("auth")


@pytest.fixture
def site(board: BreakerRoutes, breakers: Breakers) -> Site:
    """An app with the board."""
    return Site(board, breakers)


# -- the refusal, and the lifespan


@pytest.mark.parametrize(("left", "seconds"), [(0, "1"), (0.2, "1"), (1, "1"), (29.1, "30")])
async def test_a_refusal_says_when_to_come_back(left: float, seconds: str) -> None:
    """`Retry-After` is the time that is really left, in whole seconds, rounded up, and at least 1."""
    response = await circuit_open(Request({"type": "http"}), CircuitOpenError("auth", left))
    assert response.headers["retry-after"] == seconds


async def test_an_open_circuit_is_a_503(breakers: Breakers, auth: Breaker, clock: FakeClock) -> None:
    """A route that meets an open circuit answers with a problem, and with the cooldown that remains."""

    async def profile(_: Request) -> PlainTextResponse:
        async with auth:
            return PlainTextResponse("fine")

    app = Starlette(routes=[Route("/profile", profile)], exception_handlers={CircuitOpenError: circuit_open})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        assert (await client.get("/profile")).text == "fine"
        await trip(auth)
        await breakers.flush()
        clock.advance(15)
        response = await client.get("/profile")
    problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "circuit auth is open"}
    assert body_of(response, 503) == problem
    assert response.headers["retry-after"] == "15"


async def test_the_lifespan_holds_the_breakers_open() -> None:
    """The breakers are started with the app, found in the state of its requests, and closed after it."""

    class Store(MemoryStore):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    store = Store()
    breakers = Breakers(store, store_budget=PATIENCE)
    app = Starlette(lifespan=lifespan(breakers))
    async with app.router.lifespan_context(app) as state:
        assert state == {"breakers": breakers}
        async with breakers.get("auth"):
            assert not store.closed
    assert store.closed


# -- reading


async def test_all_breakers_are_listed(site: Site, breakers: Breakers, auth: Breaker) -> None:
    """The list says of each breaker what this replica knows: state, counts, calls by outcome, policy."""
    breakers.get("unused.1")
    await trip(auth)
    await breakers.flush()
    listed = await site.get("/breakers")
    assert [one["name"] for one in listed] == ["auth", "unused.1"]
    known = {"state": "OPEN", "override": None, "provisional": False, "local": False}
    policy = {"trip": "ConsecutiveFailures(n=1)", "window": 10.0, "probes": 1}
    assert listed[0] == listed[0] | known | policy
    assert listed[0]["calls"] == {"success": 1, "failure": 1} | dict.fromkeys(
        ("slow", "ignored", "cancelled", "rejected"), 0
    )
    assert 29 < listed[0]["remaining"] <= 30
    assert listed[0]["transition"]["error"] == "AwayError"
    assert listed[0]["epoch"] == listed[0]["transition"]["epoch"] == str(auth.snapshot.epoch)
    assert (listed[1]["state"], listed[1]["transition"]) == ("CLOSED", None)
    assert listed[1]["counts"] == {"calls": 0, "failures": 0, "slow": 0, "streak": 0, "run": 0}


async def test_one_breaker_is_shown_with_its_fleet(
    redis_url: str, prefix: str, server: Server, board: BreakerRoutes
) -> None:
    """A breaker's page says what the store knows, and how late each replica learned of it."""
    async with (
        Breakers(RedisStore.from_url(redis_url, prefix=prefix), replica="r1", store_budget=PATIENCE) as breakers,
        Breakers(RedisStore.from_url(redis_url, prefix=prefix), replica="r2", store_budget=PATIENCE) as others,
    ):
        auth, other = breakers.get("auth", POLICY), others.get("auth", POLICY)
        for breaker in (auth, other):
            async with breaker:
                pass
        await trip(other)
        key = f"{prefix}:auth:v1:learned"
        await eventually(lambda: server.cli("HLEN", key) == 2, "both replicas to say that they know")
        shown = await Site(board, breakers).get("/breakers/auth")
    assert (shown["source"], shown["replica"], shown["state"]) == ("fleet", "r1", "OPEN")
    assert shown["transition"]["replica"] == "r2"
    assert set(shown["replicas"]) == {"r1", "r2"}
    assert 0 <= shown["replicas"]["r1"] < 5


async def test_the_last_transitions_are_shown(site: Site, breakers: Breakers, auth: Breaker) -> None:
    """The history is the fleet's, the newest first, as long as asked for, with the operators' notes."""
    await trip(auth)
    await breakers.flush()
    await site.order(override=None)
    shown = await site.get("/breakers/auth/transitions")
    assert shown["source"] == "fleet"
    assert [(made["state"], made["reason"], made["note"]) for made in shown["transitions"]] == [
        ("CLOSED", "override", "ann: tests the brakes"), ("OPEN", "tripped", ""), ("CLOSED", "seed", ""),
    ]  # fmt: skip
    assert shown["transitions"][0]["previous"] == shown["transitions"][1]["epoch"]
    few = await site.get("/breakers/auth/transitions?count=2")
    assert few["transitions"] == shown["transitions"][:2]


@pytest.mark.parametrize("count", ["0", "1001", "-1", "100000", "x", "", "1.5", "9" * 5000])
async def test_a_wrong_count_is_refused(site: Site, count: str) -> None:
    """A count that is no whole number from 1 to 1000 is a 400."""
    await site.refused(400, f"/breakers/auth/transitions?count={count}")


HOSTILE = [
    "nobody",
    "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "%00",
    "%2E%2E",
    "auth%0d%0aX-Evil:%201",
    "%C3%BC",
    "%FF",
    "a" * 300,
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("page", ["", "/transitions", "/override"])
async def test_an_unknown_name_is_a_404(site: Site, breakers: Breakers, name: str, page: str) -> None:
    """A name that is not in use is refused, not repeated, and makes no breaker."""
    method = "POST" if page == "/override" else "GET"
    path = f"/breakers/{name}{page}"
    response = await site.refused(404, path, method, json=ORDER, headers={"Authorization": f"Bearer {TOKEN}"})
    assert name not in response.text
    assert "script" not in response.text
    assert "x-evil" not in response.headers
    assert [breaker.name for breaker in breakers] == ["auth"]


ELSEWHERE = (
    "POST /breakers", "DELETE /breakers/auth", "GET /breakers/auth/override", "PUT /breakers/auth/override",
    "GET /breakers/a/b/c", "GET /breakers/", "GET /breakers/%2F%2Fevil.example/",
)  # fmt: skip


@pytest.mark.parametrize("request_line", ELSEWHERE)
async def test_what_is_not_there_is_a_problem(site: Site, request_line: str) -> None:
    """Other paths and methods below the routes are problems too."""
    method, path = request_line.split()
    assert "evil" not in (await site.refused(404, path, method)).text


async def test_the_routes_work_under_a_prefix(board: BreakerRoutes, breakers: Breakers) -> None:
    """Mounted anywhere, the routes are found there and nowhere else."""
    site = Site(board, breakers, prefix="/ops/here")
    assert (await site.get("/ops/here/breakers/auth"))["name"] == "auth"
    await site.refused(404, "/ops/here/breakers/nobody")
    assert (await site.client.get("/breakers")).status_code == 404
    async with Watcher(site, "/ops/here/breakers/events") as watcher:
        assert (await watcher.next())["event"] == "snapshot"


async def test_the_breakers_may_be_anywhere(breakers: Breakers) -> None:
    """An app that keeps its breakers elsewhere says where."""
    app = Starlette(routes=BreakerRoutes(get_breakers=lambda request: request.app.state.mine).routes)
    app.state.mine = breakers
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        assert [one["name"] for one in (await client.get("/breakers")).json()] == ["auth"]


# -- orders


async def test_an_order_is_obeyed_and_signed(site: Site, auth: Breaker) -> None:
    """With the token an operator forces the circuit open for a time, and takes the order back."""
    shown = await site.order(override="FORCED_OPEN")
    assert (shown["state"], shown["override"], auth.state) == ("OPEN", "FORCED_OPEN", State.OPEN)
    assert 59 < shown["remaining"] <= 60
    with pytest.raises(CircuitOpenError):
        async with auth:
            pass
    for order, state in (("DISABLED", "CLOSED"), ("OBSERVE", "CLOSED"), (None, "CLOSED")):
        shown = await site.order(override=order)
        assert (shown["state"], shown["override"]) == (state, order)
    assert (await auth.history(1))[0][1] == "ann: tests the brakes"


async def test_an_order_needs_no_duration(site: Site, auth: Breaker) -> None:
    """Without `seconds` an order lasts as long as the library says."""
    order = {key: value for key, value in ORDER.items() if key != "seconds"}
    answer = await site.client.post("/breakers/auth/override", json=order, headers={"Authorization": f"bEARER {TOKEN}"})
    assert body_of(answer, 200)["override"] == "FORCED_OPEN"
    assert auth.snapshot.remaining > 3500


@pytest.mark.parametrize(
    "sent",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} ", "Bearer \u00fc"],
)
async def test_an_order_without_the_token_is_refused(site: Site, auth: Breaker, sent: str | None) -> None:
    """A missing or wrong token is a 401 that changes nothing, and does not say which breakers there are."""
    headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
    for name in ("auth", "nobody"):
        response = await site.refused(401, f"/breakers/{name}/override", "POST", json=ORDER, headers=headers)
        assert response.headers["www-authenticate"] == "Bearer"
    assert auth.state == State.CLOSED


async def test_without_a_token_nobody_may_order(breakers: Breakers, auth: Breaker) -> None:
    """A board without a token refuses every order, whatever is sent."""
    site = Site(BreakerRoutes(), breakers)
    for sent in ("", "Bearer ", "Bearer None"):
        await site.refused(403, "/breakers/auth/override", "POST", json=ORDER, headers={"Authorization": sent})
    assert auth.state == State.CLOSED
    for blank in ("", " "):
        with pytest.raises(ValueError, match="token must be None or a text that is not blank"):
            BreakerRoutes(token=blank)


WRONG: tuple[dict[str, Any], ...] = (
    {"override": "OPEN"}, {"override": []}, {"override": 1}, {"author": ""}, {"reason": " "}, {"reason": "x" * 501},
    {"seconds": 0}, {"seconds": "60"}, {"seconds": True}, {"seconds": float("nan")}, {"seconds": 1e9},
    {"seconds": None}, {"seconds": 10**400}, {"second": 60},
)  # fmt: skip
NO_ORDER = (b"", b"{", b"\xff", b"[]", b"null", b"[" * 9000, b"{}", b'{"override": null}')


@pytest.mark.parametrize("body", [*NO_ORDER, *(json.dumps(ORDER | wrong).encode() for wrong in WRONG)])
async def test_a_wrong_order_is_refused(site: Site, auth: Breaker, body: bytes) -> None:
    """An order that is not understood is a 400 that says why, and changes nothing."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = await site.refused(400, "/breakers/auth/override", "POST", content=body, headers=headers)
    assert response.json()["detail"]
    assert auth.state == State.CLOSED


async def test_a_hostile_note_stays_text(site: Site) -> None:
    """What an operator writes comes back as the text it was, in JSON that no page takes for anything else."""
    reason = "</script>\u202e\x1b[31m\r\nHTTP/1.1 200 OK \U0001f600 \u00fc"
    await site.order(reason=reason)
    response = await site.client.get("/breakers/auth/transitions?count=1")
    assert response.content.isascii()
    assert b"\x1b" not in response.content
    assert response.json()["transitions"][0]["note"] == f"ann: {reason}"


async def test_without_the_store_reading_goes_on(
    board: BreakerRoutes, prefix: str, fresh_server: Callable[..., Server]
) -> None:
    """When the store is away, pages say what this replica knows, and an order is a 503."""
    redis = fresh_server()
    async with Breakers(RedisStore.from_url(redis.url, prefix=prefix), replica="r1", store_budget=PATIENCE) as breakers:
        site, auth = Site(board, breakers), breakers.get("auth", POLICY)
        breakers.get("unused")
        async with auth:
            pass
        await trip(auth)
        await eventually(lambda: auth.state == State.OPEN, "the circuit to open")
        await asyncio.to_thread(redis.kill)
        shown = await site.get("/breakers/auth")
        assert (shown["source"], shown["replicas"], shown["state"]) == ("replica", None, "OPEN")
        past = await site.get("/breakers/auth/transitions")
        assert past["source"] == "replica"
        assert [made["reason"] for made in past["transitions"]] == ["tripped"]
        assert (await site.get("/breakers/unused/transitions"))["transitions"] == []
        headers = {"Authorization": f"Bearer {TOKEN}"}
        response = await site.refused(503, "/breakers/auth/override", "POST", json=ORDER, headers=headers)
        assert response.headers["retry-after"] == "1"
        assert str(redis.port) not in response.text
        assert (await site.get("/breakers"))[0]["state"] == "OPEN"
        assert (await site.get("/breakers/auth"))["local"]
        await asyncio.to_thread(redis.restart)
        shown = await site.get("/breakers/auth")
        assert shown["local"] == (shown["source"] == "replica"), "whose word it is"


# -- events


async def test_events_begin_with_a_snapshot_and_follow_the_transitions(
    site: Site, breakers: Breakers, auth: Breaker
) -> None:
    """A client is told first all that is known, then each transition, numbered, with how it came here."""
    async with Watcher(site) as watcher:
        assert watcher.headers["content-type"].startswith("text/event-stream")
        assert watcher.headers["cache-control"] == "no-store"
        first = await watcher.next()
        assert (first["event"], first["data"]) == ("snapshot", await site.get("/breakers"))
        await trip(auth)
        event = await watcher.next()
        epoch = auth.snapshot.epoch
        assert (event["event"], event["id"]) == ("transition", f"auth/{epoch}")
        assert event["data"] | {"transition": 0, "applied_at": 0, "lag": 0} == {
            "breaker": "auth", "made": True, "local": False, "transition": 0, "applied_at": 0, "lag": 0,
        }  # fmt: skip
        assert event["data"]["transition"]["epoch"] == epoch
        assert event["data"]["transition"]["state"] == "OPEN"
        assert 0 <= event["data"]["lag"] < 5
    await breakers.flush()


async def test_reports_are_sent_without_their_text(site: Site, board: BreakerRoutes) -> None:
    """A report tells clients its kind and its breaker; the text, which may name hosts, stays in the log."""
    async with Watcher(site) as watcher:
        await watcher.next()
        board.on_report(Report("local_mode", "", "redis.internal:6379 is away"))
        event = await watcher.next()
    assert (event["event"], event["data"]) == ("report", {"breaker": "", "kind": "local_mode"})
    assert b"redis.internal" not in watcher.body


async def test_a_burst_travels_together(site: Site, board: BreakerRoutes) -> None:
    """Many events at one moment, as when many circuits open, reach a client that reads, in order."""
    async with Watcher(site) as watcher:
        for number in range(900):
            board.on_report(Report("would_open", str(number), ""))
        await eventually(lambda: len(watcher.events) == 901, "all of them")
        assert [int(event["data"]["breaker"]) for event in watcher.events[1:]] == list(range(900))


async def test_a_slow_client_is_cut_off_alone(
    site: Site, board: BreakerRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not read keeps a bounded number of events, then loses its stream; others get everything."""
    monkeypatch.setattr(board._hub, "_backlog", 5)
    async with Watcher(site) as slow, Watcher(site) as quick:
        await slow.next()
        slow.reads.clear()
        for number in range(6):
            board.on_report(Report("would_open", str(number), ""))
            await eventually(lambda number=number: len(quick.events) == number + 2, "the quick one to read")  # type: ignore[misc]
        assert not slow.task.done()
        board.on_report(Report("would_open", "6", ""))
        async with asyncio.timeout(5):
            await slow.task
        assert not slow.ended
        assert len(slow.events) == 1
        await eventually(lambda: len(quick.events) == 8, "the quick one to read all")
        board.on_report(Report("would_open", "7", ""))
        await eventually(lambda: len(quick.events) == 9, "the quick one to go on")


async def test_clients_that_have_left_are_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are limited in number, and a client that leaves makes room."""
    monkeypatch.setattr(_stream, "STREAMS", 2)
    async with Watcher(site):
        async with Watcher(site), Watcher(site) as third:
            assert third.status == 503
            response = await site.refused(503, "/breakers/events")
            assert response.headers["retry-after"] == "5"
        async with Watcher(site) as again:
            assert again.status == 200


async def test_a_drain_ends_every_stream(site: Site, board: BreakerRoutes) -> None:
    """`close` ends streams properly, after what was still to be sent; who comes later shall come again, elsewhere."""
    async with Watcher(site) as watcher:
        board.on_report(Report("would_open", "last", ""))
        board.close()
        async with asyncio.timeout(5):
            await watcher.task
        assert watcher.ended
        assert [event["event"] for event in watcher.events] == ["snapshot", "report"]
        late = await site.client.get("/breakers/events")
        assert (late.status_code, late.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert late.text == "retry: 1000\n\n"


async def test_a_server_that_shuts_down_ends_every_stream(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server says that it shuts down, streams end properly, without waiting for anybody."""
    async with Watcher(site) as watcher:
        await watcher.next()
        monkeypatch.setattr(AppStatus, "should_exit", True)
        async with asyncio.timeout(5):
            await watcher.task
        assert watcher.ended


async def test_asking_for_the_head_of_the_stream_ends(site: Site) -> None:
    """HEAD gets the headers, and no stream."""
    async with Watcher(site, method="HEAD") as watcher:
        async with asyncio.timeout(5):
            await watcher.task
        assert (watcher.status, watcher.body) == (200, b"")


async def test_an_event_is_not_lost_between_snapshot_and_stream(site: Site, auth: Breaker) -> None:
    """What happens after the snapshot follows it, however soon: nothing falls between."""
    async with Watcher(site) as watcher:
        watcher.reads.clear()
        async with Watcher(site) as second:
            await trip(auth)
            await eventually(lambda: len(second.events) == 2, "the transition")
            states = [second.events[0]["data"][0]["state"], second.events[1]["data"]["transition"]["state"]]
            assert states == ["CLOSED", "OPEN"]
        watcher.reads.set()
        await eventually(lambda: len(watcher.events) == 2, "the transition, for the one that read late")
