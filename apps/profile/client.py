"""Asking auth: one question, and the words for what can come of it."""

import logging
from math import inf
from time import monotonic

import httpx
from opentelemetry import propagate

from apps.profile.answers import REFUSALS, CheckedTransport
from apps.profile.known import Roles
from apps.profile.settings import Settings
from apps.shared.connections import Connections
from apps.shared.logs import request_id
from apps.shared.tracing import Tracing
from commontrip import Breaker, CircuitOpenError
from commontrip.httpx import BreakerTransport, retry_after

logger = logging.getLogger("apps.auth_client")

_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "commontrip-profile"}
_QUIET = 60.0  # seconds between two log lines about the same


class AuthUnavailableError(Exception):
    """auth could not be asked, or gave no usable answer; `reason` is one word, `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class AuthClient:
    """Asks auth, through the breaker if there is one. Safe to share between tasks; close it."""

    def __init__(self, settings: Settings, breaker: Breaker | None, replica: str, tracing: Tracing) -> None:
        connecting = settings.auth_connect_seconds
        most = settings.auth_connections
        checked = CheckedTransport(tracing.transport(Connections(most)), settings.auth_timeout_seconds)
        self._transport = BreakerTransport(breaker, checked) if breaker else checked
        self._users = f"{str(settings.auth_url).rstrip('/')}/users/"
        patience = settings.auth_timeout_seconds
        self._timeout = httpx.Timeout(patience, connect=connecting, pool=connecting).as_dict()
        token = settings.auth_token.get_secret_value()
        self._headers = {**_HEADERS, "x-replica": replica, **({"authorization": f"Bearer {token}"} if token else {})}
        self._traced = tracing.exports
        self._said: dict[str, float] = {}

    async def ask(self, user: str) -> tuple[Roles, float] | None:
        """Return the user's roles and the seconds for which they are valid, None if auth refuses the user.

        Raises `AuthUnavailableError` for everything else.
        """
        headers = {**self._headers, "x-request-id": request_id.get()}
        if not self._traced:  # else that transport does it
            propagate.inject(headers)
        extensions = {"timeout": self._timeout, "user": user}
        request = httpx.Request("GET", self._users + user, headers=headers, extensions=extensions)
        try:
            response = await self._transport.handle_async_request(request)
        except CircuitOpenError as error:
            raise AuthUnavailableError("circuit_open", error.retry_after) from None
        except httpx.PoolTimeout:
            raise AuthUnavailableError("saturated") from None
        except httpx.TimeoutException:
            raise AuthUnavailableError("timeout") from None
        except httpx.HTTPError as error:
            self._say(logging.WARNING, f"auth failed: {type(error).__name__}: {error}")
            raise AuthUnavailableError("failed") from None
        return self._judge(response)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _judge(self, response: httpx.Response) -> tuple[Roles, float] | None:
        status = response.status_code
        if status == httpx.codes.OK:
            said: tuple[Roles, float] = response.extensions["said"]
            return said
        if status in REFUSALS:
            return None
        if status == httpx.codes.UNAUTHORIZED:
            self._say(logging.ERROR, "auth does not accept our credentials: check PROFILE_AUTH_TOKEN")
            raise AuthUnavailableError("credentials")
        self._say(logging.WARNING, f"auth answered {status}")
        raise AuthUnavailableError("failed", retry_after(response))

    def _say(self, level: int, text: str) -> None:
        now = monotonic()
        if now - self._said.get(text, -inf) >= _QUIET:
            if len(self._said) > 100:  # noqa: PLR2004 - texts of a failing auth may differ without end
                self._said.clear()
            self._said[text] = now
            logger.log(level, "%s", text)
