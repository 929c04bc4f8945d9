"""What the console shows of one breaker, as plain data: in small parts, so that only what has changed is sent."""

from typing import Any

from commontrip._breaker import Breaker
from commontrip._counts import Counts
from commontrip._policy import Policy
from commontrip._state import State
from commontrip._store import View
from commontrip._transition import Transition
from commontrip._trip import AllOf, AnyOf, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate

Parts = dict[str, Any]
_NOTHING = View(status="", transition=None, now=0)


def parts(breaker: Breaker, view: View | None, now: float, *, answers: bool = True) -> Parts:
    """Return what is known now (Unix s by the store's clock): here, and in the fleet if `view` is what it said last.

    What the store said of another epoch than the one that holds here is left out, but a breaker that this replica has
    not used yet is shown as the fleet has it. Counts of a store that no longer `answers` are left out, too.
    """
    known = breaker.snapshot
    said = view.transition if view and not (known.local and known.transition) else None
    told = view if answers and view and said and known.epoch in ("", str(said.epoch)) else _NOTHING
    held = known.transition or said
    state = held.state if held else known.state
    left = known.remaining if known.transition or not held else _left(held, held.until, now)
    return {
        "state": state,
        "held": made(held) if held else None,
        "used": known.transition is not None,
        "remaining": round(left, 3) if state == State.OPEN else None,
        "override": known.override,
        "ordered": round(_left(held, held.override_until, now), 3) if held and known.override else None,
        "provisional": known.provisional,
        "local": known.local,
        "gauges": gauges(breaker.policy, known.counts if told is _NOTHING else told.counts),
        "all": isinstance(breaker.policy.trip, AllOf),
        "probes": [told.in_flight, told.succeeded, told.failed, breaker.policy.recover.probes],
        "totals": known.calls,
        "policy": _words(breaker.policy),
    }


def made(transition: Transition, note: str = "", *, local: bool = False) -> Parts:
    """Return a transition as the page's timeline shows it; what is empty is left out."""
    t = transition
    full = {
        "epoch": str(t.epoch),
        "number": t.epoch.number,
        "state": t.state,
        "since": t.since,
        "reason": t.reason,
        "replica": t.replica,
        "before": t.previous_state,
        "failures": t.failures,
        "calls": t.calls,
        "error": t.error,
        "override": t.override,
        "cooldown": t.cooldown,
        "note": note,
        "local": local,
    }
    return {name: value for name, value in full.items() if value or name == "number"}


def gauges(policy: Policy, counts: Counts) -> list[Parts]:
    """Return how near each strategy of the policy is to tripping: words, and a share of 0 to 1 (None: who knows)."""
    return [_gauge(strategy, counts, f"{policy.window:g} s") for strategy in _strategies(policy.trip)]


def _strategies(trip: Any) -> list[Any]:
    several = isinstance(trip, AnyOf | AllOf)
    return [one for strategy in trip.strategies for one in _strategies(strategy)] if several else [trip]


def _gauge(trip: Any, counts: Counts, window: str) -> Parts:
    c = counts
    match trip:
        case ConsecutiveFailures(n):
            return _is(f"{c.streak} failures in a row, opens at {n}", c.streak / n)
        case FailureCount(n):
            return _is(f"{c.failures} failures in {window}, opens at {n}", c.failures / n)
        case FailureRate(rate, least):
            share = min(c.failure_rate / rate, c.calls / least)
            return _is(_of(c.failures, c.calls, "calls failed", rate, least, window), share)
        case SlowCallRate(rate, seconds, least):
            share = min(c.slow_rate / rate, c.calls / least)
            return _is(_of(c.slow, c.calls, f"calls took over {seconds:g} s", rate, least, window), share)
        case _:
            return _is(f"{c.failures} of {c.calls} calls failed in {window}, opens by {trip!r}", None)


def _is(text: str, share: float | None) -> Parts:
    return {"text": text, "share": None if share is None else round(min(1.0, share), 3)}


def _of(some: int, calls: int, what: str, rate: float, least: int, window: str) -> str:
    return f"{some} of {calls} {what} in {window}, opens at {100 * rate:.4g} % of at least {least}"


def _words(policy: Policy) -> str:
    cooldown, window = policy.cooldown, f"{policy.window:g} s"
    steps = f"{cooldown.initial:g} s, {cooldown.factor:g} times that each time in a row, at most {cooldown.maximum:g} s"
    return f"Opens by {policy.trip!r} over {window}; stays open for {steps}; closes by {policy.recover!r}."


def _left(transition: Transition, until: float, now: float) -> float:
    """Return the seconds until then; never longer than meant: the store's clock may have become another."""
    return min(transition.cooldown, max(0.0, until - now))
