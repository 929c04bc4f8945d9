"""The services under test, each with settings of its own and a prefix of its own on the shared Redis."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import respx

from apps.auth import app as auth_app
from apps.auth.settings import Settings as Auth
from apps.profile import app as profile_app
from apps.profile.settings import Settings as Profile
from apps.shared.settings import variables
from commontrip import Breaker
from tests.apps.env_template import SERVICES
from tests.apps.running import served

AUTH = "http://auth.test"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a .env of their own."""
    for kind in SERVICES.values():
        for name in variables(kind).values():
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged."""
    with caplog.at_level(logging.INFO):
        yield caplog


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is entered here is left at the end of the test."""
    async with AsyncExitStack() as entered:
        yield entered


class ProfileUnderTest:
    """One replica of profile."""

    def __init__(self, client: httpx.AsyncClient, app: Any) -> None:
        self.client = client
        self.app = app

    @property
    def breaker(self) -> Breaker:
        """Its breaker."""
        found: Breaker = self.app.state.breakers.get("auth")
        return found

    async def auth(self, user: str = "ada") -> dict[str, Any]:
        """Ask for a profile and return the auth info in it."""
        response = await self.client.get(f"/profile/{user}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()["auth"]
        return found


Profiles = Callable[..., Any]


@pytest.fixture
def profile(stack: AsyncExitStack, redis_url: str, prefix: str) -> Profiles:
    """Start replicas of profile; takes settings."""

    async def start(**settings: Any) -> ProfileUnderTest:
        # A generous budget: on a busy machine a first use is not refused for being slow.
        budget = {"breaker_store_budget_seconds": 1.0}
        given = {"redis_url": redis_url, "redis_prefix": prefix, "auth_url": AUTH, **budget, **settings}
        app = profile_app.create_app(Profile(**given))
        return ProfileUnderTest(await stack.enter_async_context(served(app)), app)

    return start


@pytest.fixture
def auth(stack: AsyncExitStack, redis_url: str, prefix: str) -> Callable[..., Any]:
    """Start replicas of auth; takes settings."""

    async def start(**settings: Any) -> httpx.AsyncClient:
        given = {"redis_url": redis_url, "redis_prefix": prefix, **settings}
        return await stack.enter_async_context(served(auth_app.create_app(Auth(**given))))

    return start


@pytest.fixture
def upstream() -> Iterator[respx.MockRouter]:
    """Whoever is asked over HTTP, by address."""
    with respx.mock(assert_all_called=False) as router:
        yield router
