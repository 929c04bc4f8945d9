"""A bound: what was measured, and what it may be at most, or must be at least."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """Something promised, as a number."""

    what: str
    measured: float
    most: float = math.inf
    unit: str = ""
    least: float = -math.inf

    @property
    def holds(self) -> bool:
        """Whether the promise is kept; something that was not measured (nan) is not kept."""
        return self.least <= self.measured <= self.most

    def __str__(self) -> str:
        return f"{self.what}: {figure(self.measured)}, promised {self.limit} {self.unit}".rstrip()

    @property
    def limit(self) -> str:
        """What was promised, in figures."""
        return f"≤ {figure(self.most)}" if self.most < math.inf else f"≥ {figure(self.least)}"


def figure(value: float) -> str:
    """Write a number with three digits, or all of them before the point."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{2 - (abs(value) >= 10)}f}"
