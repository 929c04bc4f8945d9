"""What is raised says who, what, and what now."""

import copy
import pickle

import pytest

from commontrip import BreakerError, CircuitOpenError, StoreUnavailableError
from commontrip._errors import StoreSilentError


def test_a_refusal_says_who_and_when_to_come_back() -> None:
    """A refusal names the breaker and the seconds to wait."""
    error = CircuitOpenError("auth", 12.3456)
    assert (error.name, error.retry_after) == ("auth", 12.3456)
    assert str(error) == "circuit 'auth' is open: the call was refused, retry in 12.3 s"


def test_an_unavailable_store_says_what_now() -> None:
    """A store's error says what was asked, what the store said, and whether waiting helps."""
    waiting = StoreUnavailableError("read", "OOM")
    wrong = StoreUnavailableError("read", "NOPERM", misconfigured=True)
    assert (waiting.operation, waiting.cause, waiting.misconfigured) == ("read", "OOM", False)
    assert str(waiting) == "the store did not do 'read': OOM; it is asked again later"
    assert str(wrong) == "the store did not do 'read': NOPERM; check its credentials and rights"


@pytest.mark.parametrize("kind", [CircuitOpenError, StoreUnavailableError, StoreSilentError])
def test_all_errors_have_one_root(kind: type[Exception]) -> None:
    """Whoever catches `BreakerError` catches everything that is commontrip's."""
    assert issubclass(kind, BreakerError)


@pytest.mark.parametrize(
    "error", [CircuitOpenError("auth", 1.5), StoreUnavailableError("read", "OOM"), StoreSilentError("read", "late")]
)
@pytest.mark.parametrize("through", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_errors_can_be_copied(error: Exception, through: object) -> None:
    """An error that went to another process says the same there."""
    other = through(error)
    assert (type(other), str(other), other.args) == (type(error), str(error), error.args)
