"""commontrip: one circuit breaker for all replicas of a service, at the cost of a private one.

async with Breakers(RedisStore.from_url("redis://…")) as breakers:
    auth = breakers.get("auth", Policy(trip=FailureRate(0.5, minimum_calls=20), window=10))

    async with auth:
        await call_auth()
"""

from commontrip._breaker import Breaker, Snapshot
from commontrip._breakers import Breakers
from commontrip._counts import Counts
from commontrip._errors import BreakerError, CircuitOpenError, StoreUnavailableError
from commontrip._listener import Applied, Listener, Report
from commontrip._memory import MemoryStore
from commontrip._policy import Classify, Cooldown, Policy
from commontrip._recover import Recover, SuccessRatio
from commontrip._state import Outcome, Override, State
from commontrip._store import Store
from commontrip._transition import Transition
from commontrip._trip import AllOf, AnyOf, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate, Trip

__all__ = [
    "AllOf",
    "AnyOf",
    "Applied",
    "Breaker",
    "BreakerError",
    "Breakers",
    "CircuitOpenError",
    "Classify",
    "ConsecutiveFailures",
    "Cooldown",
    "Counts",
    "FailureCount",
    "FailureRate",
    "Listener",
    "MemoryStore",
    "Outcome",
    "Override",
    "Policy",
    "Recover",
    "Report",
    "SlowCallRate",
    "Snapshot",
    "State",
    "Store",
    "StoreUnavailableError",
    "SuccessRatio",
    "Transition",
    "Trip",
]
