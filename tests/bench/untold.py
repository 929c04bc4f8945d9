"""`python -m tests.bench.untold`: profile, but commontrip's telemetry is nothing: what is left is the stock one's."""

from typing import Any, Self

from apps.profile import app
from apps.profile.settings import Settings
from apps.shared.server import main
from commontrip import Listener


class Silence(Listener):
    """Stands where `Telemetry` does, and tells nobody anything."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what that takes."""

    def watch(self, *_: Any) -> None:
        """Watch nothing."""

    async def flush(self, *_: Any) -> None:
        """Send nothing."""

    async def aclose(self, *_: Any) -> None:
        """Close nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Leave."""


if __name__ == "__main__":
    app.Telemetry = Silence  # type: ignore[assignment,attr-defined]
    main("profile", Settings, app.create_app)
