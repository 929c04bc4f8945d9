"""What one replica knows of one circuit: it takes in what a store says, and tells a store what it has forgotten."""

import asyncio
import math
from typing import TYPE_CHECKING

from commontrip._errors import StoreUnavailableError
from commontrip._ledger import TOO_LATE
from commontrip._line import AGAIN
from commontrip._memory import MemoryStore
from commontrip._state import Override, Reason, State
from commontrip._store import Ask, Change, View
from commontrip._transition import Transition, parse, token

if TYPE_CHECKING:
    from commontrip._circuit import Circuit

NEWBORN = 0.025
"""Seconds for which a new incarnation admits nobody, so that those who remember are heard."""


class Knowledge:
    """The transition that holds here, the last one that the shared store said, and how sure that is.

    Deadlines are by the local clock, from remaining times that are each clamped to their own maximum: the store's
    clock may be another one after a failover.
    """

    def __init__(self, circuit: "Circuit") -> None:
        self._circuit = circuit
        self._replica = circuit.replica
        self.here: Transition | None = None  # what holds for this replica
        self.shared: Transition | None = None  # the last that the shared store said
        self.fresh = False  # the store has been asked, and nothing may have been missed since
        self.overtaken = False  # something was heard since the last read was sent
        self.local: MemoryStore | None = None
        self.newborn_until = 0.0
        self.open_until = 0.0
        self.ordered_until = 0.0
        self.heard_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._proposing: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # -- what is so

    @property
    def state(self) -> State:
        """The state that holds here; CLOSED before the first use."""
        return self.here.state if self.here else State.CLOSED

    @property
    def order(self) -> Override | None:
        """The operator's order, if one is in force."""
        return self.here.override if self.here and self.ordered_until > self._circuit.clock() else None

    @property
    def newborn(self) -> bool:
        """Whether the incarnation is so young that those who remember may not have been heard."""
        return self.newborn_until > self._circuit.clock()

    @property
    def remembers(self) -> bool:
        """Whether there is a verdict to tell a store that has forgotten everything."""
        return self.shared is not None and (self.shared.state != State.CLOSED or self.shared.override is not None)

    @property
    def owed(self) -> bool:
        """Whether there is a verdict to tell the shared store after a time without it."""
        return self.local is not None and (self.remembers or self.state != State.CLOSED)

    @property
    def busy(self) -> bool:
        """Whether a transition has been proposed and not been answered."""
        return self._proposing is not None

    # -- taking in

    def learn(self, view: View, *, last_word: bool = False) -> None:
        """Take in what a store said; another incarnation only if it is the last word, else it is a reason to read."""
        self.heard_at = self._circuit.clock()
        if view.mended:
            self._circuit.report("mended", f"keys held garbage or were gone, and are repaired: {view.mended.strip()}")
        found, shared = view.transition, self.shared
        if found is None:
            self._nothing_there()
        elif self.local:
            self._adopt(found, view.now)
        elif shared and self._forgot(found, shared):
            if self._overtaken(view, shared):
                return
            if view.by_hand:  # whoever SET the state goes over what is remembered
                self._obey(found, view.by_hand)
            else:
                self._reassert(found, shared, Reason.REASSERTED)
        elif shared and found.epoch.incarnation != shared.epoch.incarnation and not last_word:
            self.reread()
        else:
            self._adopt(found, view.now)
            if view.by_hand:
                self._obey(found, view.by_hand)

    def _forgot(self, found: Transition, shared: Transition) -> bool:
        """Whether the store knows less than this replica: its writes were lost, or all its keys."""
        if found.epoch.incarnation == shared.epoch.incarnation:
            return found.epoch.number < shared.epoch.number
        return found.is_seed and self.remembers

    @staticmethod
    def _overtaken(view: View, shared: Transition) -> bool:
        """Whether the store said so before it made the transition that is known already: no write was lost."""
        return 0 <= shared.since - view.now < TOO_LATE

    def _nothing_there(self) -> None:
        if self.shared and self.remembers:
            self._reassert(None, self.shared, Reason.REASSERTED)
        else:
            self.shared = None
            self.reread()

    def heard(self, record: str) -> None:
        """Take in a published transition: a newer one of the same incarnation; anything else is a reason to read."""
        try:
            found = parse(record)
        except ValueError:
            self._circuit.report("mended", f"the channel carried garbage: {record[:100]!r}")
            return
        shared = self.shared
        if shared and found.epoch == shared.epoch:
            return
        self.overtaken |= not found.is_seed
        if shared is None:
            return
        newer = found.epoch.number - shared.epoch.number
        if self.local or found.epoch.incarnation != shared.epoch.incarnation or newer == 0:
            self.suspect()
        elif newer > 0:
            self._adopt(found, self._replica.line.at_least() if self._replica.line.synchronized else found.since)

    def looked(self, state: str, record: str) -> None:
        """Compare with what the store's keys hold: any difference is a reason to read."""
        try:
            same = self.here is not None and parse(record) == self.here and state == self.here.state
        except ValueError:
            same = False
        if not same:
            self.reread()

    def suspect(self) -> None:
        """Something may have been missed.

        Read now if the breaker is in use, or knows a verdict that the store may have lost; else before its next call.
        """
        if self._replica.uses(self._circuit) or self.remembers:
            if self.local is None:  # else the next look tries to go home
                self.reread()
        else:
            self.stale()

    def stale(self) -> None:
        """Read before the next call."""
        self.fresh = False
        self._circuit.arrange()

    def _adopt(self, found: Transition, now: float) -> None:
        """Let a transition hold here."""
        here, shared, clock = self.here, self.shared, self._circuit.clock()
        self.here = found
        if self.local is None:
            self.shared = found
        new = here is None or here.epoch != found.epoch
        if new:
            self.overtaken = True
            self.open_until = self.ordered_until = math.inf
        # Of two answers about one epoch the later one may be the older: neither lengthens what the other said.
        left = min(found.cooldown, max(0.0, max(found.until, found.override_until) - now))
        self.open_until = min(self.open_until, clock + left) if found.state == State.OPEN else 0.0
        self.ordered_until = min(self.ordered_until, clock + left) if found.override else 0.0
        if new:
            self.newborn_until = clock
            if found.is_seed and self.local is None:
                self.newborn_until = clock + min(NEWBORN, max(0.0, found.since + NEWBORN - now))
            self._circuit.begin()
        self._set_alarm(max(self.newborn_until, self.ordered_until) - clock)
        self._circuit.arrange()
        self._announce(found, here, shared)

    def _announce(self, found: Transition, here: Transition | None, shared: Transition | None) -> None:
        made = found.replica == self._replica.id
        old = here if self.local else shared
        known = old is not None and old.epoch == found.epoch
        # What a newcomer finds has happened before its time: it is not news, also if one of its own name made it.
        if not known and not found.is_seed and (old is not None or (made and self._replica.lived_at(found.since))):
            self._replica.announce(self._circuit, found, old, made=made)

    def _set_alarm(self, seconds: float) -> None:
        self.stop_alarm()
        if seconds > 0:
            self._alarm = asyncio.get_running_loop().call_later(seconds + 0.001, self._grown)

    def stop_alarm(self) -> None:
        """Wait no longer for a newborn to grow up or an order to expire."""
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def _grown(self) -> None:
        self._alarm = None
        self._circuit.arrange()

    # -- telling the store

    def propose(self, change: Change) -> None:
        """Ask the store for a transition; one at a time, what else there is to say will still be so afterwards."""
        if self._proposing is None:
            self._proposing = self._replica.errand(self._propose(change))

    async def _propose(self, change: Change) -> None:
        try:
            view = await self._replica.insist(self._circuit, "transition", change)
        finally:
            self._proposing = None
        self.learn(view)
        if view.status == "stale":
            self.reread()
        self._circuit.release()

    def change(self, expected: Transition | None, to: State, reason: Reason, **details: object) -> Change:
        """Return a transition to propose in place of `expected`."""
        return Change(
            name=self._circuit.name,
            expected=str(expected.epoch) if expected else "",
            to=to,
            token=token(),
            reason=reason,
            replica=self._replica.id,
            **details,  # type: ignore[arg-type] # the callers below and beside pass Change's own fields
        )

    @property
    def _highest(self) -> int:
        """The highest number that is remembered."""
        return self.shared.epoch.number if self.shared else -1

    def _obey(self, found: Transition, wanted: State) -> None:
        cooldown = 0.0 if wanted == State.CLOSED else self._circuit.policy.cooldown.after(1)
        self.propose(
            self.change(
                found,
                wanted,
                Reason.EXTERNAL,
                remaining=cooldown,
                cooldown=cooldown,
                opens=int(wanted != State.CLOSED),
                floor=self._highest,
            )
        )

    def _reassert(self, found: Transition | None, held: Transition, reason: Reason) -> None:
        """Tell the store what it has forgotten; a false alarm loses the compare-and-set."""
        clock, shared = self._circuit.clock(), self.shared
        to, remaining = held.state, 0.0
        if to == State.HALF_OPEN:  # its leases are lost: nobody for one lease time
            to, remaining = State.OPEN, self._circuit.policy.probe_lease
        elif to == State.OPEN:
            remaining = max(0.001, self.open_until - clock) if held is self.here else 0.001
        ordered_for = max(0.0, self.ordered_until - clock) if held is self.here else 0.0
        self.propose(
            self.change(
                found,
                to,
                reason,
                remaining=remaining,
                cooldown=max(held.cooldown, remaining),
                opens=held.opens,
                failures=held.failures,
                calls=held.calls,
                error=held.error,
                cause=held.cause,
                floor=self._highest,
                incarnation=shared.epoch.incarnation if shared else "",
                previous=str(shared.epoch) if shared else "",
                override=held.override if ordered_for else None,
                override_for=ordered_for,
            )
        )

    # -- asking the store, and doing without

    def reread(self) -> asyncio.Task[None]:
        """Read, together with whoever else wants to; goes on until it is answered or the store given up."""
        if self._reading is None:
            self._reading = self._replica.spawn(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            while True:
                try:
                    await self._circuit.read(seed=True)
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(AGAIN)
        finally:
            self._reading = None

    def ask(self, *, seed: bool = True) -> Ask:
        """Return the request to read; it never seeds while there is a verdict to be told instead."""
        return Ask(
            name=self._circuit.name,
            seed=seed and not self.remembers,
            token=token(),
            replica=self._replica.id,
            window=self._circuit.policy.window,
            cooldown=self._circuit.policy.cooldown.initial,
        )

    def go_local(self) -> MemoryStore:
        """Decide alone from here on: the same circuit, in a store of its own, with what is known."""
        if self.local is None:
            offset, clock = self._replica.line.offset, self._circuit.clock
            self.local = MemoryStore(clock=lambda: clock() + offset)
            if self.here:
                lease = self._circuit.policy.probe_lease
                running = {probe.lease: lease for probe in self._circuit.places.running}
                self.local.load(self._circuit.name, self.here, self._circuit.ledger.known, running)
                self.fresh = True
                self._circuit.arrange()
        return self.local

    def go_home(self, view: View) -> None:
        """Go back to the shared store: tell it a verdict that is newer than its own, else take what it says."""
        here, shared, found = self.here, self.shared, view.transition
        self.local = None
        decided_alone = here is not None and (shared is None or here.epoch != shared.epoch)
        same = shared is not None and found is not None and found.epoch == shared.epoch
        stood_still = found is None or found.is_seed or same or (shared is not None and self._forgot(found, shared))
        if here and decided_alone and stood_still and here.state != State.CLOSED:
            self._reassert(found, here, Reason.LOCAL)
        else:
            self.learn(view, last_word=True)
