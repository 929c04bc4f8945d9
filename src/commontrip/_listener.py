"""What a replica tells whoever listens: transitions, calls that were not plain successes, and reports."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from commontrip._state import Outcome, State
from commontrip._transition import Transition, span_ids

if TYPE_CHECKING:
    from commontrip._breakers import Breakers

logger = logging.getLogger("commontrip")

QUIET = 60.0
"""Seconds between two reports of one kind about one breaker."""
MOST_REPORTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A transition that this replica has made, or has learned of and applied."""

    breaker: str
    transition: Transition
    made: bool
    """Whether this replica made it: true for exactly one replica of the fleet."""
    applied_at: float
    """When it was applied here, Unix seconds by the store's clock."""
    local: bool = False
    """Whether it holds for this replica only, because the store is away."""

    @property
    def lag(self) -> float:
        """Seconds from the commit to here."""
        return max(0.0, self.applied_at - self.transition.since)


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator should know. `kind` is one of the words below, `text` a sentence for a log."""

    kind: str
    """local_mode, shared_mode, store_error, misconfigured, mended, would_open, lost_batch, bad_hook."""
    breaker: str
    """The breaker it is about; '' for the store as a whole."""
    text: str


class Listener:
    """Base for what listens; override what interests you. Called in the event loop: must not block.

    What a listener raises is logged and changes neither state nor the caller's result.
    """

    times_calls = False
    """Whether `on_ended` is wanted; a closed call that is timed adds about a microsecond, whoever listens."""

    def watch(self, breakers: "Breakers") -> None:
        """Hear, before the first call, whose listener this is."""

    def on_transition(self, applied: Applied) -> None:
        """Hear of a transition, once per replica and transition."""

    def on_learned(self, breaker: str, rank: int) -> None:
        """Hear, a little after a transition that others made, that this replica was the rank-th to learn of it.

        The maker is the first; not called where the transition has been overtaken. So a few replicas can do what
        need not be done by all.
        """

    def on_call(self, breaker: str, state: State, outcome: Outcome, *, probe: bool) -> None:
        """Hear, in the caller's context, of a call that was refused, failed, was slow, or was a probe."""

    def on_ended(self, breaker: str, outcome: Outcome, seconds: float) -> None:
        """Hear, in the caller's context, of every admitted call's end; only if a listener `times_calls`."""

    def on_report(self, report: Report) -> None:
        """Hear what an operator should know."""

    def on_store(self, operation: str, seconds: float, error: str) -> None:
        """Hear of one exchange with the store; `error` is the error's type, '' if there was none."""

    def cause(self) -> str:
        """Return the trace context (W3C traceparent) of the running call, '' if there is none."""
        return ""


class LogListener(Listener):
    """One log line per transition and replica, and per report; the first listener of every `Breakers`.

    A record has breaker, epoch, reason and cause, and the ids of the transition's span, as `extra`.
    """

    def on_transition(self, applied: Applied) -> None:
        """Log it: opening is a warning."""
        t = applied.transition
        how = "made" if applied.made else f"learned after {applied.lag * 1000:.0f} ms"
        trace_id, span_id = span_ids(applied.breaker, str(t.epoch))
        trace = {} if applied.local else {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}"}
        logger.log(
            logging.WARNING if t.state == State.OPEN else logging.INFO,
            "circuit %s: %s -> %s (%s) epoch %s, %s%s; %d failures of %d calls, made by %s",
            applied.breaker, t.previous_state or "new", t.state, t.reason, t.epoch, how,
            ", local mode" if applied.local else "", t.failures, t.calls, t.replica,
            extra={"breaker": applied.breaker, "epoch": str(t.epoch), "reason": t.reason, "cause": t.cause, **trace},
        )  # fmt: skip

    def on_report(self, report: Report) -> None:
        """Log it."""
        loud = report.kind in ("misconfigured", "bad_hook")
        who = f"circuit {report.breaker}: " if report.breaker else ""
        logger.log(logging.ERROR if loud else logging.WARNING, "%s%s", who, report.text, extra={"kind": report.kind})


class Listeners:
    """All listeners together; telling them never raises."""

    def __init__(self, listeners: Iterable[Listener], clock: Callable[[], float]) -> None:
        """Tell them in this order, the log first."""
        self._all = (LogListener(), *listeners)
        self._broken: set[tuple[int, str]] = set()
        self._clock = clock
        self._reported: dict[tuple[str, str], float] = {}

    def tell(self, method: str, *args: object, **kwargs: object) -> str:
        """Call the method of each; return the first answer that is not empty."""
        answer = ""
        for listener in self._all:
            try:
                said = getattr(listener, method)(*args, **kwargs)
                answer = answer or said or ""
            except (Exception, asyncio.CancelledError):  # nobody can cancel our task here: nothing is awaited
                if (id(listener), method) not in self._broken:
                    self._broken.add((id(listener), method))
                    logger.exception("%s.%s raised; this is logged once", type(listener).__name__, method)
        return answer

    def report(self, kind: str, breaker: str, text: str) -> None:
        """Report a trouble, the same one once a minute: neither a flapping store nor a hostile writer floods a log."""
        now = self._clock()
        if now - self._reported.get((kind, breaker), -QUIET) >= QUIET:
            if len(self._reported) > MOST_REPORTED:
                self._reported.clear()
            self._reported[kind, breaker] = now
            self.tell("on_report", Report(kind, breaker, text))
