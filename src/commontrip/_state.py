"""The states of a circuit, the overrides of an operator, the outcomes of a call.

         the trip strategy says so
CLOSED ─────────────────────────────▶ OPEN ◀─────────┐
  ▲                                    │             │ the ratio can
  │ the success ratio is reached       │ cooldown    │ no longer be
  │                                    ▼ over        │ reached
  └──────────────────────────────── HALF_OPEN ───────┘
"""

from enum import StrEnum


class State(StrEnum):
    """What the circuit does with calls; spelled so in Redis, JSON, logs and the console."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class Override(StrEnum):
    """What an operator has ordered for the whole fleet, until it expires."""

    FORCED_OPEN = "FORCED_OPEN"
    """Every call is refused. When the order expires, probes decide."""
    DISABLED = "DISABLED"
    """Every call passes and nothing counts."""
    OBSERVE = "OBSERVE"
    """Every call passes, everything counts, and what would have opened is reported."""


class Outcome(StrEnum):
    """What a call did."""

    SUCCESS = "success"
    FAILURE = "failure"
    SLOW = "slow"
    """It took, or still takes, longer than the policy's `slower_than`; otherwise a success."""
    IGNORED = "ignored"
    """Neither good nor bad: the classification says that it says nothing of the dependency."""
    CANCELLED = "cancelled"
    """The caller went away: neither good nor bad."""
    REJECTED = "rejected"
    """The circuit refused it."""


class Reason(StrEnum):
    """Why a transition was made."""

    SEED = "seed"
    """The keys were not there: the breaker's first use, or after they were lost."""
    TRIPPED = "tripped"
    """The trip strategy said so."""
    COOLDOWN_OVER = "cooldown_over"
    """The first call after the cooldown; transitions need traffic."""
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBES_FAILED = "probes_failed"
    OVERRIDE = "override"
    """An operator ordered it, or took the order back."""
    EXTERNAL = "external"
    """Somebody SET the state key by hand."""
    REASSERTED = "reasserted"
    """The store had forgotten what a replica remembered."""
    LOCAL = "local"
    """Decided by a replica while the store was away, told to the fleet when it was back."""
