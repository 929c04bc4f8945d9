"""Argument checks: a wrong one is a `ValueError` that names the argument, the value and the range."""

import math
import re
from typing import Any

_LARGE = 1e18  # also not infinite, and not beyond what a float holds
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return `value` if it is a number in [low, high] (or above `low`), else raise."""
    proper = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGE
    if not proper or value < low or value > high or (above and value == low):
        least = f"above {low}" if above else f"at least {low}"
        most = "" if high == math.inf else f" and at most {high}"
        raise ValueError(f"{name} must be a number {least}{most}, not {value!r}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int = 1_000_000) -> int:
    """Return `value` if it is an integer in [low, high], else raise."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return int(value)


def name(what: str, value: Any) -> str:
    """Return `value` if it can be part of a key, else raise: no two names can share a key."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{what} must be 1 to 200 of A-Z a-z 0-9 . _ -, not {value!r}")
    return str(value)


def text(what: str, value: Any, most: int = 500) -> str:
    """Return `value` without outer blanks if it is a text of 1 to `most` characters, else raise."""
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= most:
        raise ValueError(f"{what} must be a text of 1 to {most} characters, not {value!r}")
    return value.strip()


def that(proper: object, what: str, wanted: str, value: Any) -> None:
    """Raise unless `proper`: `what` must be `wanted`."""
    if not proper:
        raise ValueError(f"{what} must be {wanted}, not {value!r}")
