"""All names, and the metrics' units, in one place: there is no convention for circuit breakers, but one may come."""

SCOPE = "commontrip"
TRANSITION_SPAN, OBSERVED_SPAN = "circuit_breaker.transition", "circuit_breaker.observed"

NAME = "circuit_breaker.name"
STATE = "circuit_breaker.state"
PREVIOUS_STATE = "circuit_breaker.previous_state"
PREVIOUS_DURATION = "circuit_breaker.previous_state_duration"
OVERRIDE = "circuit_breaker.override"
OUTCOME = "circuit_breaker.outcome"
NUMBER = "circuit_breaker.transition.id"
REASON = "circuit_breaker.transition.reason"
INCARNATION = "circuit_breaker.incarnation"
REPLICA = "circuit_breaker.replica"
FAILURES = "circuit_breaker.failures"
CALLS = "circuit_breaker.calls"
COOLDOWN = "circuit_breaker.cooldown"
LAST_ERROR = "circuit_breaker.last_error_type"
LINK = "circuit_breaker.link"  # of a link: cause or previous
OPERATION = "circuit_breaker.store.operation"
ERROR_TYPE = "error.type"

CALLS_METRIC = ("circuit_breaker.calls", "{call}")
STATE_METRIC = ("circuit_breaker.state", "{breaker}")
OVERRIDE_METRIC = ("circuit_breaker.override", "{breaker}")
LOCAL_MODE_METRIC = ("circuit_breaker.local_mode", "{breaker}")
CALL_DURATION_METRIC = ("circuit_breaker.call.duration", "s")
TRANSITIONS_METRIC = ("circuit_breaker.transitions", "{transition}")
PROPAGATION_METRIC = ("circuit_breaker.propagation", "s")
STORE_DURATION_METRIC = ("circuit_breaker.store.duration", "s")
STORE_ERRORS_METRIC = ("circuit_breaker.store.errors", "{error}")
