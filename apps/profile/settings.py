"""What profile is asked for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, HttpUrl, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from apps.shared.settings import BASE, Count, Port, RedisSettings, Seconds, ServiceSettings, Share, Token
from commontrip import AnyOf, ConsecutiveFailures, Cooldown, FailureRate, Policy, SlowCallRate, SuccessRatio, Trip

Factor = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)]


class Fallback(StrEnum):
    """What a user gets while auth cannot be asked."""

    STALE = "stale"
    """What auth last gave, while that is young; else unknown."""
    UNKNOWN = "unknown"
    """No roles."""
    FAIL = "fail"
    """503 with Retry-After."""


class Settings(ServiceSettings, RedisSettings):
    """The settings of profile."""

    model_config = SettingsConfigDict(**BASE, env_prefix="PROFILE_", validate_default=True)

    port: Port = Field(8091, description="port for requests; further replicas on one machine take the next ones")
    metrics_port: Port = Field(9103, description="port for Prometheus; further replicas on one machine take the next")
    replica: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
        description="this replica's name in the fleet; made from host and process id if empty",
    )
    people_path: Path | None = Field(None, description="JSON file of profiles: an object by id; the sample if empty")

    auth_url: HttpUrl = Field(HttpUrl("http://127.0.0.1:8082"), description="base address of auth")
    auth_token: Token = Field(SecretStr(""), description="bearer token for auth; none if empty")
    auth_timeout_seconds: Seconds = Field(2.0, description="seconds that a question to auth may take in all")
    auth_connect_seconds: Seconds = Field(0.5, description="seconds of these for connecting")
    auth_connections: Count = Field(100, description="connections to auth at most")

    fallback: Fallback = Field(
        Fallback.STALE, description="what a user gets while auth cannot be asked: stale, unknown or fail (503)"
    )
    fallback_age_seconds: Seconds = Field(300.0, description="seconds after which what auth gave is not served stale")
    fallback_users: Count = Field(10_000, description="users that a replica remembers beside Redis")

    override_token: Token = Field(
        SecretStr(""), description="operators' bearer token for POST /breakers/auth/override; refused to all if empty"
    )

    breaker_enabled: bool = Field(True, description="whether auth is asked through the breaker")
    breaker_failure_rate: Share = Field(0.5, description="opens when this share of the calls failed; 0: never")
    breaker_minimum_calls: Count = Field(20, description="calls in the window before a share counts")
    breaker_consecutive_failures: int = Field(
        0, ge=0, le=1_000_000, description="opens after so many failures in a row; 0: never"
    )
    breaker_slow_call_rate: Share = Field(0.0, description="opens when this share of the calls was slow; 0: never")
    breaker_slow_call_seconds: Seconds = Field(1.0, description="seconds after which a call is slow")
    breaker_window_seconds: Seconds = Field(10.0, ge=0.1, description="seconds over which calls are counted")
    breaker_cooldown_seconds: Seconds = Field(10.0, ge=0.01, description="seconds that the circuit stays open at first")
    breaker_cooldown_factor: Factor = Field(2.0, description="by which that grows each time it opens again")
    breaker_cooldown_maximum_seconds: Seconds = Field(120.0, description="seconds that it stays open at most")
    breaker_cooldown_jitter: float = Field(0.1, ge=0, le=0.5, description="share by which a cooldown is varied")
    breaker_probes: int = Field(5, ge=1, le=50, description="calls that the whole fleet tries before it closes")
    breaker_success_ratio: Share = Field(0.6, gt=0, description="share of these that must succeed")
    breaker_probe_lease_seconds: float = Field(
        5.0, ge=0.1, le=3600, description="seconds after which the place of a killed replica's probe is free again"
    )
    breaker_probe_limit_seconds: Seconds = Field(30.0, description="seconds after which a probe counts as failed")
    breaker_store_budget_seconds: float = Field(
        0.05, ge=0.001, le=10, description="seconds by which Redis may delay one request"
    )
    breaker_ttl_seconds: float = Field(
        600.0, ge=60, le=2_592_000, description="seconds for which Redis remembers a breaker that nobody uses"
    )

    @field_validator("auth_url")
    @classmethod
    def _bare(cls, value: HttpUrl) -> HttpUrl:
        if value.query is not None or value.fragment is not None or value.username or value.password:
            raise ValueError("an address has neither login nor query; the token is PROFILE_AUTH_TOKEN")
        return value

    @field_validator("breaker_slow_call_rate")
    @classmethod
    def _trips_at_all(cls, value: float, info: ValidationInfo) -> float:
        others = (info.data.get("breaker_failure_rate"), info.data.get("breaker_consecutive_failures"))
        if not value and others == (0, 0):
            raise ValueError(
                "one of PROFILE_BREAKER_FAILURE_RATE, PROFILE_BREAKER_CONSECUTIVE_FAILURES and this must be above 0"
            )
        return value

    @field_validator("breaker_cooldown_maximum_seconds")
    @classmethod
    def _at_least_the_first(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("breaker_cooldown_seconds", 0):
            raise ValueError("must be at least PROFILE_BREAKER_COOLDOWN_SECONDS")
        return value

    @field_validator("breaker_probe_limit_seconds")
    @classmethod
    def _at_least_a_lease(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("breaker_probe_lease_seconds", 0):
            raise ValueError("must be at least PROFILE_BREAKER_PROBE_LEASE_SECONDS")
        return value

    @property
    def policy(self) -> Policy:
        """The breaker's policy."""
        trips: list[Trip] = []
        if self.breaker_failure_rate:
            trips.append(FailureRate(self.breaker_failure_rate, self.breaker_minimum_calls))
        if self.breaker_consecutive_failures:
            trips.append(ConsecutiveFailures(self.breaker_consecutive_failures))
        if self.breaker_slow_call_rate:
            slow = self.breaker_slow_call_seconds
            trips.append(SlowCallRate(self.breaker_slow_call_rate, slow, self.breaker_minimum_calls))
        return Policy(
            trip=trips[0] if len(trips) == 1 else AnyOf(*trips),
            recover=SuccessRatio(self.breaker_success_ratio, self.breaker_probes),
            cooldown=Cooldown(
                self.breaker_cooldown_seconds,
                self.breaker_cooldown_factor,
                self.breaker_cooldown_maximum_seconds,
                self.breaker_cooldown_jitter,
            ),
            window=self.breaker_window_seconds,
            probe_lease=self.breaker_probe_lease_seconds,
            probe_limit=self.breaker_probe_limit_seconds,
        )
