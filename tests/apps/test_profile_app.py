"""The profile service in process: its own data, bad input, the breaker's routes, and what it says to Prometheus."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
import respx
from prometheus_client import generate_latest

from apps.profile import app as profile_app
from apps.profile.settings import Settings
from apps.shared.settings import SettingsError
from commontrip import State
from tests.apps.conftest import AUTH, Profiles
from tests.apps.running import problem
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("answering")

HOSTILE = {
    "dots": ("..%2f..%2fbreakers", 404),
    "one dot": ("%2e", 400),
    "two dots": ("%2e%2e", 400),
    "slash": ("ada%2fgrace", 404),
    "null": ("ada%00", 400),
    "line break": ("ada%0d%0aset-cookie:%20a=b", 400),
    "space": ("ada%20", 400),
    "double encoding": ("%2561da", 400),
    "overlong": ("%c0%ae%c0%ae", 400),
    "not UTF-8": ("%ff%fe", 400),
    "emoji": ("%F0%9F%98%80", 400),
    "full width": ("%EF%BD%81%EF%BD%84%EF%BD%81", 400),
    "quote": ("ada'--", 400),
    "template": ("%7B%7B7*7%7D%7D", 400),
    "html": ("%3Cscript%3E", 400),
    "star": ("*", 400),
    "semicolon": ("ada;x=1", 400),
    "colon": ("ada:v1:epoch", 400),
    "long": ("a" * 65, 400),
    "empty": ("", 404),
    "unknown": ("a" * 64, 404),
    "trailing slash": ("ada/", 404),
    "upper case": ("ADA", 404),
}


@pytest.fixture
def answering(upstream: respx.MockRouter) -> None:
    """An auth that knows ada."""
    upstream.get(f"{AUTH}/users/ada").respond(json={"user_id": "ada", "roles": ["admin"]})


async def test_profile_is_joined(profile: Profiles) -> None:
    """A profile is its own data with the auth info."""
    replica = await profile()
    body = (await replica.client.get("/profile/ada")).json()
    assert (body["user_id"], body["profile"]["name"]) == ("ada", "Ada Lovelace")
    assert body["auth"]["roles"] == ["admin"]


async def test_own_data_is_a_file(profile: Profiles, upstream: respx.MockRouter, tmp_path: Any) -> None:
    """The profiles come from the file of the setting; who is not in it is not asked for."""
    (tmp_path / "people.json").write_text('{"zoe": {"likes": ["tea"]}}')
    replica = await profile(people_path=tmp_path / "people.json")
    upstream.get(f"{AUTH}/users/zoe").respond(json={"user_id": "zoe", "roles": []})
    assert (await replica.client.get("/profile/zoe")).json()["profile"] == {"likes": ["tea"]}
    assert problem(await replica.client.get("/profile/ada"), 404) == "there is no such profile"
    assert len(upstream.calls) == 1


def test_missing_data_is_a_setting(tmp_path: Any) -> None:
    """A file that is not there ends the start with a line that names the setting."""
    with pytest.raises(SettingsError, match="PROFILE_PEOPLE_PATH: cannot read"):
        profile_app.create_app(Settings(people_path=tmp_path / "none.json"))


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_user_id(
    name: str, profile: Profiles, upstream: respx.MockRouter, logged: pytest.LogCaptureFixture
) -> None:
    """A user id that is none is a problem, reaches neither auth nor Redis, and is no error of ours."""
    path, status = HOSTILE[name]
    replica = await profile()
    problem(await replica.client.get(httpx.URL(f"http://app/profile/{path}")), status)
    assert len(upstream.calls) == 0
    assert not [record for record in logged.records if record.levelno >= logging.WARNING or record.exc_info]


async def test_wrong_method(profile: Profiles) -> None:
    """A method that a path does not take is a 405 that says which it takes."""
    replica = await profile()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"):
        response = await replica.client.request(method, "/profile/ada")
        problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_unknown_path(profile: Profiles) -> None:
    """Elsewhere there is nothing."""
    replica = await profile()
    for path in ("/", "/profile", "/profiles/ada", "/metrics", "/users/ada"):
        assert problem(await replica.client.get(path), 404) == "there is nothing at this path"


async def test_breaker_routes(profile: Profiles) -> None:
    """The library's routes are there: the breaker as this replica and as the fleet know it, and its history."""
    replica = await profile(replica="p-1")
    await replica.auth()
    [breaker] = (await replica.client.get("/breakers")).json()
    assert (breaker["name"], breaker["state"]) == ("auth", "CLOSED")
    assert list((await replica.client.get("/breakers/auth")).json()["replicas"]) == ["p-1"]
    problem(await replica.client.get("/breakers/other"), 404)


ORDER = {"override": "FORCED_OPEN", "author": "me", "reason": "a test", "seconds": 60}


@pytest.mark.parametrize(
    ("token", "header", "status"),
    [
        ("", "Bearer ", 403),
        ("t1", "", 401),
        ("t1", "Bearer t2", 401),
        ("t1", "Basic t1", 401),
        ("t1", "Bearer t1", 200),
    ],
)
async def test_override_needs_the_token(token: str, header: str, status: int, profile: Profiles) -> None:
    """An operator's order needs the token of the setting, and without such a setting nobody can give one."""
    replica = await profile(override_token=token)
    headers = {"authorization": header} if header else {}
    response = await replica.client.post("/breakers/auth/override", json=ORDER, headers=headers)
    assert response.status_code == status
    assert replica.breaker.state == (State.OPEN if status == 200 else State.CLOSED)


async def test_override_with_a_body_too_large(profile: Profiles) -> None:
    """More than 64 KiB are refused, whether the client says so beforehand or not."""
    replica = await profile(override_token="t1")

    async def chunks() -> Any:
        for _ in range(65):
            yield b" " * 1024

    for content in (b" " * 65_537, chunks()):
        headers = {"authorization": "Bearer t1"}
        response = await replica.client.post("/breakers/auth/override", content=content, headers=headers)
        assert problem(response, 413) == "the body may have at most 65536 bytes"


async def test_event_stream_ends_at_drain(profile: Profiles) -> None:
    """Draining, a replica is not ready, ends its event streams, and goes on answering requests."""
    replica = await profile()
    assert (await replica.client.get("/readyz")).json() == {"status": "ready"}
    stream = asyncio.create_task(replica.client.get("/breakers/events"))
    await eventually(lambda: len(_streams(replica)) == 1, "the stream to begin")
    replica.app.state.health.drain()
    response = await asyncio.wait_for(stream, 2)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith("event: snapshot")
    assert problem(await replica.client.get("/readyz"), 503) == "draining"
    assert (await replica.client.get("/healthz")).json() == {"status": "alive"}
    answer = await replica.client.get("/profile/ada")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def _streams(replica: Any) -> Any:
    [close] = replica.app.state.health._leaving
    return close.__self__._hub.streams


async def test_metrics(profile: Profiles) -> None:
    """Prometheus is told of requests by route, and of the breaker, and of health checks nothing."""
    replica = await profile()
    await replica.auth()
    await replica.client.get("/profile/eve")
    await replica.client.get("/healthz")
    await replica.client.get("/nowhere")
    text = generate_latest(replica.app.state.metrics.registry).decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counts = {
        name: float(count)
        for name, count in lines.items()
        if name.startswith("http_server_request_duration_seconds_count")
    }
    labels = 'http_request_method="GET",http_response_status_code="{}",http_route="{}"'
    expected = {(200, "/profile/{user_id}"): 1, (404, "/profile/{user_id}"): 1, (404, "none"): 1}
    assert counts == {
        f"http_server_request_duration_seconds_count{{{labels.format(*key)}}}": count for key, count in expected.items()
    }
    calls = {name: count for name, count in lines.items() if name.startswith("circuit_breaker_calls")}
    assert [count for name, count in calls.items() if 'outcome="success"' in name] == ["1.0"]
    assert "process_cpu_seconds_total" in lines


async def test_log_line_of_a_request(profile: Profiles, logged: pytest.LogCaptureFixture) -> None:
    """A request is one log line with its route, status and time; health checks are none; it can be switched off."""
    replica = await profile()
    await replica.client.get("/profile/ada?token=hunter2")
    await replica.client.get("/readyz")
    [record] = [record for record in logged.records if record.name == "apps.requests"]
    assert record.getMessage() == "GET /profile/{user_id} 200"
    assert "hunter2" not in json.dumps(record.__dict__, default=str)
    logged.clear()
    quiet = await profile(access_log=False)
    await quiet.client.get("/profile/ada")
    assert [record for record in logged.records if record.name == "apps.requests"] == []
