"""What commontrip raises.

    BreakerError
    ├── CircuitOpenError        the call was refused: come back after `retry_after` seconds
    └── StoreUnavailableError   the shared store did not answer: only from calls that ask it by name

Wrong arguments are a plain `ValueError` or `TypeError`, raised where they are passed.
A guarded call's own exception is never replaced by one of these.
"""


class BreakerError(Exception):
    """Root of what commontrip raises."""


class CircuitOpenError(BreakerError):
    """The circuit did not admit the call; the dependency was not asked.

    `name` is the breaker's, `retry_after` the seconds (at least 0) until asking again can succeed.
    """

    # No __init__ and no text until asked: a refusal must cost no more than a closed call.
    args: tuple[str, float]

    @property
    def name(self) -> str:
        """The breaker's name."""
        return self.args[0]

    @property
    def retry_after(self) -> float:
        """Seconds until asking again can succeed."""
        return self.args[1]

    def __str__(self) -> str:
        """Say who, what, and what now."""
        return f"circuit {self.name!r} is open: the call was refused, retry in {self.retry_after:.3g} s"


class StoreUnavailableError(BreakerError):
    """The store did not answer, or refused to work.

    Guarded calls never see it; `Breaker.override`, `.read` and `.history` raise it.
    `misconfigured` says that waiting will not help: a wrong password or missing rights.
    """

    def __init__(self, operation: str, cause: str, *, misconfigured: bool = False) -> None:
        """Keep the operation that failed and the store's own words."""
        super().__init__(operation, cause)
        self.operation = operation
        self.cause = cause
        self.misconfigured = misconfigured

    def __str__(self) -> str:
        """Say what was asked, what happened, and what now."""
        remedy = "check its credentials and rights" if self.misconfigured else "it is asked again later"
        return f"the store did not do {self.operation!r}: {self.cause}; {remedy}"


class StoreSilentError(StoreUnavailableError):
    """The store gave no answer in time; whether it did the work is not known."""
