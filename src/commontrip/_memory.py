"""`MemoryStore`: what the scripts do, in Python, for one process: local mode, and users' own tests.

The same contract suite runs against it and against every server.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor
from time import time

from commontrip._counts import Counts, Run
from commontrip._state import Override, Reason, State
from commontrip._store import TOO_OLD, Ask, Batch, Change, Lease, Settlement, View
from commontrip._transition import LARGEST, MOST_OPENS, Epoch, Transition

_BUCKETS = 10


@dataclass(slots=True)
class _Bucket:
    start: float
    run: Run


@dataclass(slots=True)
class _Window:
    """Counts of one epoch in buckets; see `lua/window.lua`."""

    buckets: list[_Bucket] = field(default_factory=list)
    last: float = 0.0
    run: int = 0
    peak: int = 0
    peak_at: float = 0.0
    blocked_until: float = 0.0
    keep: float = 0.0

    def look(self, now: float, span: float) -> Counts:
        """Return what was counted in the last `span` seconds; runs end with a silent one."""
        young = [bucket.run for bucket in self.buckets if now - span < bucket.start <= now]
        run = self.run if 0 <= now - self.last <= span else 0
        return Counts(
            calls=sum(part.calls for part in young),
            failures=sum(part.failures for part in young),
            slow=sum(part.slow for part in young),
            streak=self.peak if 0 <= now - self.peak_at <= span else run,
            run=run,
        )

    def left_alone(self, now: float) -> float:
        """Return the seconds that the Retry-After still lasts, or did at the last batch if the clock has gone back."""
        return max(0.0, self.blocked_until - max(now, self.last))

    def count(self, now: float, span: float, run: Run) -> None:
        """Add a batch."""
        self.keep = max(self.keep, span)
        self.buckets = [bucket for bucket in self.buckets if now - self.keep < bucket.start <= now]
        before = self.look(now, span)
        after = run.after(before)
        if not self.buckets or self.buckets[-1].start <= now - span / _BUCKETS:
            self.buckets.append(_Bucket(now, Run()))
        bucket = self.buckets[-1]
        old = bucket.run
        bucket.run = Run(calls=old.calls + run.calls, failures=old.failures + run.failures, slow=old.slow + run.slow)
        peak = max(before.run + run.first, run.longest)
        self.peak, self.peak_at = (peak, now) if peak >= before.streak else (before.streak, self.peak_at)
        self.blocked_until = now + max(self.left_alone(now), run.retry_after)
        self.run, self.last = after.run, now


@dataclass(slots=True)
class _Breaker:
    transition: Transition
    note: str = ""
    window: _Window = field(default_factory=_Window)
    seen: dict[str, int] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    learned: dict[str, float] = field(default_factory=dict)


class MemoryStore:
    """A store in this process. Shared between several `Breakers` it makes them one fleet; it forgets at exit.

    Never raises and never waits. `clock` returns Unix seconds and may be set by a test.
    """

    def __init__(self, *, clock: Callable[[], float] = time, ttl: float = 600.0, history: int = 100) -> None:
        """Start empty."""
        self.ttl = ttl
        self._clock = clock
        self._history = history
        self._breakers: dict[str, _Breaker] = {}
        self._past: dict[str, deque[tuple[Transition, str]]] = {}
        self._present: dict[str, float] = {}
        self._heard: list[Callable[[str, str], None]] = []

    async def start(self, heard: Callable[[str, str], None], gap: Callable[[], None]) -> None:
        """See `Store.start`."""
        self._heard.append(heard)
        gap()

    async def aclose(self) -> None:
        """See `Store.aclose`; others who share the store go on."""

    def load(self, name: str, transition: Transition, counts: Counts, leases: dict[str, float]) -> None:
        """Begin from what a replica knows: the epoch goes on with these counts, and the probes that run (lease: s)."""
        now = self._clock()
        breaker = self._breakers[name] = _Breaker(transition)
        breaker.leases = {lease: now + seconds for lease, seconds in leases.items()}
        breaker.window = _Window([_Bucket(now, Run(calls=counts.calls, failures=counts.failures, slow=counts.slow))])
        breaker.window.last = breaker.window.peak_at = now
        breaker.window.run, breaker.window.peak = counts.run, counts.streak

    def forget(self, name: str) -> None:
        """Lose a breaker's keys."""
        self._breakers.pop(name, None)

    def commands(self, operation: str, breakers: int) -> int:  # noqa: ARG002 - what costs nothing is one
        """See `Store.commands`."""
        return 1

    async def read(self, asks: Sequence[Ask]) -> list[View]:
        """See `Store.read`."""
        return [self._read(ask) for ask in asks]

    def _read(self, ask: Ask) -> View:
        breaker, status = self._breakers.get(ask.name), "ok"
        if breaker is None:
            if not ask.seed:
                return self._view("missing", None)
            change = Change(
                name=ask.name, expected="", to=State.CLOSED, token=ask.token, reason=Reason.SEED, replica=ask.replica
            )
            breaker, status = self._commit(None, change), "new"
        return self._view(status, breaker, ask.window)

    async def record(self, batches: Sequence[Batch]) -> list[View]:
        """See `Store.record`."""
        return [self._record(batch) for batch in batches]

    def _record(self, batch: Batch) -> View:
        now, breaker = self._clock(), self._breakers.get(batch.name)
        if breaker is None:
            return self._view("missing", None)
        current = breaker.transition
        status = "ok"
        if (
            str(current.epoch) != batch.epoch
            or current.state != State.CLOSED
            or self._mode(current) == Override.DISABLED
        ):
            return self._view("old", breaker)
        if batch.number <= breaker.seen.get(batch.replica, 0):
            status = "dup"
        elif batch.deadline and now > batch.deadline:
            status = "late"
        else:
            breaker.window.count(now, batch.window, batch.run)
            breaker.seen[batch.replica] = batch.number
        return self._view(status, breaker, batch.window)

    async def transition(self, change: Change) -> View:
        """See `Store.transition`."""
        now, breaker = self._clock(), self._breakers.get(change.name)
        if breaker and breaker.transition.epoch.token == change.token:
            return self._view("won", breaker)
        if (str(breaker.transition.epoch) if breaker else "") != change.expected:
            return self._view("lost", breaker)
        if change.decided_at and abs(now - change.decided_at) > TOO_OLD:
            return self._view("stale", breaker)
        return self._view("won", self._commit(breaker, change))

    async def lease(self, lease: Lease) -> View:
        """See `Store.lease`."""
        now, breaker = self._clock(), self._breakers.get(lease.name)
        if breaker is None:
            return self._view("missing", None)
        current = breaker.transition
        if lease.renew:
            self._renew(breaker, lease)
            return self._view("granted" if current.state == State.HALF_OPEN else current.state.lower(), breaker)
        if current.state == State.CLOSED:
            return self._view("closed", breaker)
        if current.state == State.OPEN:
            if now < current.until:
                return self._view("open", breaker)
            opened = Change(
                name=lease.name,
                expected="",
                to=State.HALF_OPEN,
                token=lease.token,
                reason=Reason.COOLDOWN_OVER,
                replica=lease.replica,
                cooldown=current.cooldown,
                opens=current.opens,
                cause=lease.cause,
            )
            breaker = self._commit(breaker, opened)
        return self._grant(breaker, lease)

    def _grant(self, breaker: _Breaker, lease: Lease) -> View:
        now = self._clock()
        self._prune(breaker)
        live = len(breaker.leases)
        if lease.lease not in breaker.leases:
            if not live and breaker.succeeded + breaker.failed >= lease.probes:
                breaker.succeeded = breaker.failed = 0
            if breaker.succeeded + breaker.failed + live >= lease.probes:
                return self._view("full", breaker)
        breaker.leases[lease.lease] = now + lease.seconds
        return self._view("granted", breaker)

    def _renew(self, breaker: _Breaker, lease: Lease) -> None:
        """Keep or take again the place of a probe that runs; `!` marks one that no longer counts for the verdict."""
        self._prune(breaker)
        full = breaker.succeeded + breaker.failed + len(breaker.leases) >= lease.probes
        late = f"!{lease.lease}"
        lost = lease.lease not in breaker.leases
        mark = late if late in breaker.leases or (lost and full) else lease.lease
        breaker.leases[mark] = self._clock() + lease.seconds

    async def settle(self, settlement: Settlement) -> View:
        """See `Store.settle`."""
        breaker = self._breakers.get(settlement.name)
        if breaker is None:
            return self._view("missing", None)
        if breaker.transition.epoch.token == settlement.token:
            return self._view("counted", breaker)
        self._prune(breaker)
        breaker.leases.pop(f"!{settlement.lease}", None)
        if breaker.leases.pop(settlement.lease, None) is None:
            return self._view("gone", breaker)
        if str(breaker.transition.epoch) != settlement.epoch or breaker.transition.state != State.HALF_OPEN:
            return self._view("old", breaker)
        breaker.succeeded += settlement.kind == "s"
        breaker.failed += settlement.kind == "f"
        side = settlement.probes + 1
        at = min(breaker.succeeded, side - 1) * side + min(breaker.failed, side - 1)
        verdict = "." if settlement.kind == "n" else settlement.grid[at]
        if verdict != ".":
            breaker = self._commit(breaker, self._ended(breaker, settlement, closed=verdict == "c"))
        return self._view("counted", breaker)

    @staticmethod
    def _ended(breaker: _Breaker, settlement: Settlement, *, closed: bool) -> Change:
        cooldown = 0.0 if closed else settlement.cooldown
        return Change(
            name=settlement.name,
            expected="",
            to=State.CLOSED if closed else State.OPEN,
            token=settlement.token,
            reason=Reason.PROBES_SUCCEEDED if closed else Reason.PROBES_FAILED,
            replica=settlement.replica,
            remaining=cooldown,
            cooldown=cooldown,
            opens=0 if closed else settlement.opens,
            failures=breaker.failed,
            calls=breaker.succeeded + breaker.failed,
            error="" if closed else settlement.error,
            cause=settlement.cause,
        )

    async def look(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """See `Store.look`."""
        found = [self._breakers.get(name) for name in names]
        return [(breaker.transition.state, breaker.transition.record()) if breaker else ("", "") for breaker in found]

    async def history(self, name: str, count: int) -> list[tuple[Transition, str]]:
        """See `Store.history`."""
        return list(reversed(self._past.get(name, ())))[:count]

    async def presence(self, replica: str, seconds: float) -> int:
        """See `Store.presence`."""
        now = self._clock()
        self._present[replica] = now + seconds
        last = now + max(seconds, self.ttl)
        self._present = {member: min(until, last) for member, until in self._present.items() if until > now}
        return len(self._present)

    async def learned(self, name: str, epoch: str, replica: str, lag: float) -> int:
        """See `Store.learned`."""
        breaker = self._breakers.get(name)
        if breaker is None or str(breaker.transition.epoch) != epoch:
            return 0
        breaker.learned[replica] = lag
        return len(breaker.learned)

    async def told(self, name: str, epochs: Sequence[str]) -> None:
        """See `Store.told`; who makes a transition here lives as long as the store."""

    async def untold(self, name: str, ages: tuple[float, float], turn: float) -> list[Transition]:  # noqa: ARG002 - none
        """See `Store.untold`."""
        return []

    async def fleet(self, name: str) -> dict[str, float | None]:
        """See `Store.fleet`."""
        breaker, now = self._breakers.get(name), self._clock()
        alive = [member for member, until in self._present.items() if until > now]
        return {member: breaker.learned.get(member) if breaker else None for member in alive}

    # -- the parts

    def _mode(self, transition: Transition) -> Override | None:
        return transition.override if transition.override_until > self._clock() else None

    def _prune(self, breaker: _Breaker) -> None:
        now = self._clock()
        breaker.leases = {lease: until for lease, until in breaker.leases.items() if until > now}

    def _commit(self, breaker: _Breaker | None, change: Change) -> _Breaker:
        now = floor(self._clock() * 1000) / 1000  # a record has whole milliseconds: what is read is what was made
        old = breaker.transition if breaker else None
        number = max(old.epoch.number if old else -1, change.floor) + 1
        incarnation = old.epoch.incarnation if old else change.incarnation or change.token
        if number > LARGEST:
            number, incarnation = 1, change.token
        made = Transition(
            epoch=Epoch(incarnation, number, change.token),
            state=change.to,
            since=now,
            until=round(now + change.remaining, 3) if change.to == State.OPEN else 0.0,
            cooldown=round(max(change.cooldown, change.override_for), 3),
            opens=min(change.opens, MOST_OPENS),
            override=change.override,
            override_until=round(now + change.override_for, 3) if change.override else 0.0,
            reason=change.reason,
            replica=change.replica,
            failures=change.failures,
            calls=change.calls,
            previous=change.previous or (str(old.epoch) if old else ""),
            previous_state=old.state if old else None,
            previous_since=old.since if old else 0.0,
            error=change.error,
            cause=change.cause,
        )
        fresh = self._breakers[change.name] = _Breaker(made, change.note, leases=breaker.leases if breaker else {})
        fresh.learned[change.replica] = 0.0
        self._past.setdefault(change.name, deque(maxlen=self._history)).append((made, change.note))
        for heard in self._heard:
            heard(change.name, made.record())
        return fresh

    def _view(self, status: str, breaker: _Breaker | None, window: float = 0.0) -> View:
        now = self._clock()
        if breaker is None:
            return View(status=status, transition=None, now=now)
        self._prune(breaker)
        return View(
            status=status,
            transition=breaker.transition,
            now=now,
            counts=breaker.window.look(now, window) if window else Counts(),
            retry_after=breaker.window.left_alone(now),
            succeeded=breaker.succeeded,
            failed=breaker.failed,
            in_flight=len(breaker.leases),
        )
