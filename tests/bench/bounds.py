"""A bound: what was measured, and what it may be at most."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """Something promised, as a number."""

    what: str
    measured: float
    most: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the promise is kept; something that was not measured (nan) is not kept."""
        return self.measured <= self.most

    def __str__(self) -> str:
        sign = "≤" if self.holds else ">"
        return f"{self.what}: {figure(self.measured)} {sign} {figure(self.most)} {self.unit}".rstrip()


def figure(value: float) -> str:
    """Write a number with three digits, or all of them before the point."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{2 - (abs(value) >= 10)}f}"
