"""When to trip, how long to stay open, when to close again: data, no I/O."""

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from commontrip import _check
from commontrip._recover import Recover, SuccessRatio, grid
from commontrip._state import Outcome
from commontrip._trip import FailureRate, Trip, check_trip, slower_than

NEUTRAL = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""Exceptions by which the caller leaves: they say nothing of the dependency."""


_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Cooldown:
    """How long the circuit stays open, in seconds.

    The k-th time in a row it is `initial * factor**(k - 1)`, at most `maximum`, then up to `jitter` of it
    longer or shorter, so that the breakers of many services do not probe in step.
    A `Retry-After` of the dependency lengthens it for the fleet, up to `maximum`.
    Ranges: initial 0.01 to 86,400; factor 1 to 100; maximum from initial to 86,400; jitter 0 to 0.5.
    """

    initial: float = 30.0
    factor: float = 2.0
    maximum: float = 300.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check.number("Cooldown.initial", self.initial, 0.01, 86_400)
        _check.number("Cooldown.factor", self.factor, 1, 100)
        _check.number("Cooldown.maximum", self.maximum, self.initial, 86_400)
        _check.number("Cooldown.jitter", self.jitter, 0, 0.5)

    def after(self, opens: int, retry_after: float = 0.0) -> float:
        """Return the seconds to stay open, having opened `opens` times in a row (1 = the first)."""
        try:
            seconds = min(self.maximum, self.initial * float(self.factor) ** (opens - 1))
        except OverflowError:
            seconds = self.maximum
        seconds *= 1 + random.uniform(-self.jitter, self.jitter)  # noqa: S311 - spreads load, keeps no secret
        return max(0.001, min(self.maximum, max(seconds, retry_after)))


def _seconds(asked: Any) -> float:
    """Return proper seconds, at most a day; whatever else a dependency may have said is no request."""
    proper = isinstance(asked, int | float) and not isinstance(asked, bool) and asked >= 0 and asked != math.inf
    return float(min(asked, _DAY)) if proper else 0.0


def _nothing(_: Any) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Which exceptions and results count as what. The caller gets them unchanged either way.

    An exception is `ignored` if it is one of `ignored`, else `slow` if one of `slow`, else a failure if one of
    `failures`, else ignored. Cancellation, KeyboardInterrupt, SystemExit and GeneratorExit are always neutral.
    `result` turns a returned value into an outcome, None meaning success; `retry_after` finds in an exception
    or a returned value the seconds for which the dependency wants to be left alone, None if it does not say.
    Both run after every call that they could judge; when one raises, that is reported and it is as if it were not set.
    """

    failures: tuple[type[Exception], ...] = (Exception,)
    ignored: tuple[type[Exception], ...] = ()
    slow: tuple[type[Exception], ...] = ()
    result: Callable[[Any], Outcome | None] | None = None
    retry_after: Callable[[Any], float | None] = _nothing

    def __post_init__(self) -> None:
        for group in ("failures", "ignored", "slow"):
            types = getattr(self, group)
            if not isinstance(types, tuple) or not all(isinstance(t, type) and issubclass(t, Exception) for t in types):
                raise ValueError(f"Classify.{group} must be a tuple of Exception classes, not {types!r}")
        for hook in (self.result or _nothing, self.retry_after):
            if not callable(hook):
                raise ValueError(f"Classify.result and .retry_after must be callable, not {hook!r}")

    @property
    def looks_at_values(self) -> bool:
        """Whether a returned value can be anything but a success."""
        return self.result is not None or self.retry_after is not _nothing

    def value(self, value: Any) -> tuple[Outcome, float]:
        """Return the outcome of a call that returned, and the seconds to leave the dependency alone."""
        said: Any = self.result(value) if self.result else None
        outcome = Outcome.SUCCESS if said is None else said
        if not isinstance(outcome, Outcome) or outcome is Outcome.REJECTED:
            raise TypeError(f"result returned {outcome!r}, which is no outcome of a call")
        return outcome, _seconds(self.retry_after(value))

    def error(self, error: BaseException) -> tuple[Outcome, float]:
        """Return the outcome of a call that raised, and the seconds to leave the dependency alone."""
        return self.kind(error), _seconds(self.retry_after(error))

    def kind(self, error: BaseException) -> Outcome:
        """Return the outcome of a call that raised."""
        if isinstance(error, NEUTRAL):
            return Outcome.CANCELLED
        if isinstance(error, self.ignored):
            return Outcome.IGNORED
        if isinstance(error, self.slow):
            return Outcome.SLOW
        return Outcome.FAILURE if isinstance(error, self.failures) else Outcome.IGNORED


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All settings of one breaker; immutable, shared freely, compared by value.

    `window` (s, 0.1 to 86,400) is what `trip` looks back on, blurred by a tenth.
    `probe_lease` (s, 0.1 to 3,600) is how soon a killed replica's probe is replaced.
    `probe_limit` (s, from probe_lease to 86,400) is how long a probe may run before it counts as failed;
    a trip strategy with `slower_than` shortens it to that.
    """

    trip: Trip = field(default_factory=lambda: FailureRate(0.5, minimum_calls=20))
    recover: Recover = field(default_factory=SuccessRatio)
    cooldown: Cooldown = field(default_factory=Cooldown)
    classify: Classify = field(default_factory=Classify)
    window: float = 10.0
    probe_lease: float = 5.0
    probe_limit: float = 30.0

    def __post_init__(self) -> None:
        check_trip("Policy.trip", self.trip)
        proper = callable(getattr(self.recover, "verdict", None)) and not isinstance(self.recover, type)
        _check.that(proper, "Policy.recover", "a strategy with a method verdict(successes, failures)", self.recover)
        slower_than(self.trip)
        grid(self.recover)
        _check.number("Policy.window", self.window, 0.1, 86_400)
        _check.number("Policy.probe_lease", self.probe_lease, 0.1, 3_600)
        _check.number("Policy.probe_limit", self.probe_limit, self.probe_lease, 86_400)
        for part, kind in (("cooldown", Cooldown), ("classify", Classify)):
            value = getattr(self, part)
            _check.that(isinstance(value, kind), f"Policy.{part}", f"a {kind.__name__}", value)

    @property
    def slower_than(self) -> float | None:
        """Seconds from which a call counts as slow; None if the trip strategy does not ask."""
        return slower_than(self.trip)
