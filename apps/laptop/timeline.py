"""What happened when, and which claims held."""

import time

from apps.laptop.children import TroubleError
from apps.laptop.screen import Part, Screen


class Timeline:
    """Lines with the seconds since it was made."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._started = time.monotonic()

    def tell(self, *parts: Part) -> None:
        """Tell that something happens."""
        self._screen.show(f"{time.monotonic() - self._started:5.1f} s  ", *parts)

    def claim(self, text: str, *, holds: bool, but: str) -> None:
        """Tell a claim that holds; for one that does not, raise `TroubleError` with what is so instead."""
        if not holds:
            self.tell(("✗ ", "bold red"), text)
            raise TroubleError(f"a claim does not hold: {text}; but {but}")
        self.tell(("✓ ", "bold green"), text)
