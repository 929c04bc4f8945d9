"""The breaker as its user sees it: around code, on a function, or call by call."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from commontrip import _check
from commontrip._calls import Call
from commontrip._circuit import Circuit
from commontrip._counts import Counts, Tally
from commontrip._errors import StoreUnavailableError
from commontrip._state import Outcome, Override, Reason, State
from commontrip._store import Change, View
from commontrip._transition import Transition, token

P = ParamSpec("P")
T = TypeVar("T")

_Entry = tuple[Circuit, "Tally | Call", Any]
_entered: ContextVar[Any] = ContextVar("commontrip_entered", default=None)
"""What `async with` has entered in this task and not left: (circuit, tally or call, the one before)."""

LONGEST_ORDER = 7 * 86_400.0
"""Seconds that an override can last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What this replica knows of a breaker at one moment. Times are Unix seconds by the store's clock."""

    name: str
    state: State
    override: Override | None
    epoch: str
    transition: Transition | None
    """What made it so; None before the first use."""
    counts: Counts
    remaining: float
    """Seconds of cooldown left; 0 unless OPEN."""
    provisional: bool
    """Calls are refused until the store has confirmed or denied that the threshold is crossed."""
    local: bool
    """The store is away and this replica decides alone."""
    probes_in_flight: int
    """In the fleet; only after `Breaker.read`, else 0."""
    calls: dict[Outcome, int]
    """All calls of this replica since its start, by outcome."""


class Breaker:
    """One circuit, shared by the fleet. Get it from `Breakers.get`; safe to share between tasks of one event loop.

    While CLOSED or OPEN a call costs no round trip; a probe costs one before and one after it, and the first
    use one, each within the store budget. The guarded call's value or exception always passes through unchanged.
    Cancellation, and whatever the policy ignores, is neutral; so is this breaker's own refusal of a call within a
    call. Each of the two needs a place among the probes, so where one probe decides they never close the circuit:
    guard a dependency once.
    """

    __slots__ = ("__weakref__", "_circuit", "_plain", "name", "policy")

    def __init__(self, circuit: Circuit) -> None:
        self.name = circuit.name
        self.policy = circuit.policy
        self._circuit = circuit
        circuit.owner = self  # who still has something to send is not collected
        self._plain = not (circuit.running or circuit.values_matter or circuit.times_calls)

    def __repr__(self) -> str:
        return f"<Breaker {self.name!r} {self.state}>"

    # -- around any code

    async def __aenter__(self) -> None:
        """Admit the block or raise `CircuitOpenError`. Nested and concurrent uses of one object are fine."""
        circuit = self._circuit
        entry: Tally | Call | None = circuit.gate
        if entry is None or not self._plain:
            entry = await circuit.enter()
        _entered.set((circuit, entry, _entered.get()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count what the block did."""
        top = _entered.get()
        if top is not None and top[0] is self._circuit:
            _entered.set(top[2])
            entry = top[1]
        else:
            entry = _leave(self._circuit)
        if type(entry) is Tally:
            if error is not None:
                self._circuit.failed(entry, error)
                return
            entry.ok += 1
            if not entry.armed:
                entry.arm()
        elif entry is not None:
            if error is None:
                entry.end(Outcome.SUCCESS)
            else:
                entry.raised(error)
            await _settled(entry, error)

    # -- on any coroutine function

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard a coroutine function. Anything else is a `TypeError`: it would not be guarded."""
        if not inspect.iscoroutinefunction(function):
            raise TypeError(
                f"breaker {self.name!r} guards coroutine functions, which {function!r} is not; "
                "inside a generator use `async with`, and make a blocking function asynchronous first"
            )
        return self._guard(function) if self._plain else self._guard_timed(function)

    def _guard(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        circuit, run, clock = self._circuit, self._run, self._circuit.clock

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            tally = circuit.gate
            if tally is None:
                left = circuit.refuse_until - clock()
                if left > 0:
                    raise circuit.refuse(left)
                return await run(function, *args, **kwargs)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                circuit.failed(tally, error)
                raise
            tally.ok += 1
            if not tally.armed:
                tally.arm()
            return result

        return guarded

    def _guard_timed(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        circuit, run = self._circuit, self._run

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if circuit.gate is None:
                return await run(function, *args, **kwargs)
            call = circuit.begin_call(circuit.gate)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                call.raised(error)
                raise
            call.returned(result)
            return result

        return guarded

    # -- call by call

    async def call(
        self,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        fallback: Callable[[Exception], T | Awaitable[T]] | None = None,
        **kwargs: Any,
    ) -> T:
        """Call a coroutine function under the breaker.

        `fallback`, if given, is called with the error when this circuit is open or the call failed by the policy's
        classification, and its value (awaited if need be) is returned. Ignored errors and cancellation pass through.
        """
        if fallback is None:
            tally = self._circuit.gate
            if tally is None or not self._plain:
                return await self._run(function, *args, **kwargs)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                self._circuit.failed(tally, error)
                raise
            tally.ok += 1
            if not tally.armed:
                tally.arm()
            return result
        try:
            return await self._run(function, *args, **kwargs)
        except Exception as error:
            failed = self.policy.classify.kind(error) in (Outcome.FAILURE, Outcome.SLOW)
            if not failed and not self._circuit.refused(error):
                raise
            answer = fallback(error)
            return await answer if inspect.isawaitable(answer) else answer

    async def _run(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        call = await self._circuit.enter()
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            call.raised(error)
            await _settled(call, error)
            raise
        call.returned(result)
        await _settled(call, None)
        return result

    async def admit(self) -> Call:
        """Admit one call whose outcome somebody else will tell, or raise `CircuitOpenError`.

        For adapters. Exactly one of the call's methods must be called: `end(outcome)`, `returned(value)` or
        `raised(error)`; a call that is forgotten counts as nothing, a forgotten probe as failed after the probe limit.
        """
        return await self._circuit.enter()

    # -- looking

    @property
    def state(self) -> State:
        """The state as far as this replica knows; no I/O."""
        return self._circuit.knowledge.state

    @property
    def snapshot(self) -> Snapshot:
        """What this replica knows; no I/O."""
        return self._snapshot()

    async def read(self) -> Snapshot:
        """Ask the store; one round trip. If it does not answer, what this replica knows. Changes nothing there."""
        try:
            return self._snapshot(await self._circuit.read(seed=False))
        except StoreUnavailableError:
            return self._snapshot()

    def _snapshot(self, view: View | None = None) -> Snapshot:
        circuit, known = self._circuit, self._circuit.knowledge
        return Snapshot(
            name=self.name,
            state=known.state,
            override=known.order,
            epoch=str(known.here.epoch) if known.here else "",
            transition=known.here,
            counts=view.counts if view else circuit.ledger.merged,
            remaining=max(0.0, known.open_until - circuit.clock()) if known.state == State.OPEN else 0.0,
            provisional=circuit.provisional,
            local=circuit.replica.alone or (known.local is not None and known.fresh),
            probes_in_flight=view.in_flight if view else 0,
            calls=circuit.ledger.totals(),
        )

    async def history(self, count: int = 100) -> list[tuple[Transition, str]]:
        """Return the last transitions of the fleet, the newest first, each with an operator's note ('' without).

        One round trip. Raises `StoreUnavailableError`.
        """
        replica = self._circuit.replica
        work = replica.store.history(self.name, _check.whole("count", count, 1, 100_000))
        return await replica.line.call("history", work, vital=False)

    # -- an operator's orders

    async def override(self, order: Override | None, *, author: str, reason: str, seconds: float = 3600.0) -> Snapshot:
        """Order the whole fleet to hold a state for `seconds` (1 to 604,800); None goes back to automatic.

        FORCED_OPEN opens, DISABLED and OBSERVE close. Back to automatic, a forced circuit is HALF_OPEN (probes
        decide) and any other CLOSED, which is also how a breaker is reset. Each is a transition with the reason
        `override`; `author` and `reason` (1 to 500 characters) stay in the history. Two round trips, more only
        while others change the state at the same moment. Raises `StoreUnavailableError`.
        """
        author, reason = _check.text("author", author), _check.text("reason", reason)
        if order is not None:
            _check.that(order in tuple(Override), "order", f"None or one of {', '.join(Override)}", order)
            order = Override(order)
        seconds = _check.number("seconds", seconds, 1, LONGEST_ORDER) if order else 0.0
        circuit, known, minted = self._circuit, self._circuit.knowledge, token()
        held = known.here if known.local is None else known.shared
        while True:
            to = State.OPEN if order == Override.FORCED_OPEN else State.CLOSED
            if order is None and held and held.override == Override.FORCED_OPEN and held.state == State.OPEN:
                to = State.HALF_OPEN
            change = Change(
                name=self.name,
                expected=str(held.epoch) if held else "",
                to=to,
                token=minted,
                reason=Reason.OVERRIDE,
                replica=circuit.replica.id,
                remaining=seconds,
                cooldown=seconds if to == State.OPEN else 0.0,
                floor=0,
                override=order,
                override_for=seconds,
                note=f"{author}: {reason}",
            )
            view = await circuit.replica.order(circuit, change)
            if view.status == "won":
                circuit.informed(view)
                return self._snapshot(view)
            held = view.transition


def _leave(circuit: Circuit) -> "Tally | Call | None":
    """Find what was entered when generators have mixed the order; None if it was entered in another task."""
    passed, top = [], _entered.get()
    while top is not None and top[0] is not circuit:
        passed.append(top)
        top = top[2]
    if top is None:
        return None
    rest = top[2]
    for entry in reversed(passed):
        rest = (entry[0], entry[1], rest)
    _entered.set(rest)
    found: Tally | Call = top[1]
    return found


async def _settled(call: Call, error: BaseException | None) -> None:
    """Wait for a probe's settlement, unless the caller is leaving."""
    if call.probe and (error is None or isinstance(error, Exception)):
        await call.settled()
