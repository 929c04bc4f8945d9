"""Loops that make n calls, and the bare loops that say what the same n calls cost without a breaker."""

from collections.abc import Awaitable, Callable
from typing import Any

Loop = Callable[[int], Awaitable[None]]
Function = Callable[..., Any]


class BareError(Exception):
    """What the bare raising call raises."""


class NotRefusedError(Exception):
    """A call came through where the circuit is open: the measurement would be worthless."""


async def answer() -> int:
    """Stand for the guarded call."""
    return 1


def answer_now() -> int:
    """Stand for the guarded call of a library that knows no coroutines."""
    return 1


async def refuse() -> int:
    """Stand for a call that is refused: nothing but an exception, as cheap as Python has it."""
    raise BareError("bare", 1.0)


def refuse_now() -> int:
    """Do the same without a coroutine."""
    raise BareError("bare", 1.0)


def awaited(function: Function) -> Loop:
    """Await the function n times."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            await function()

    return loop


def plain(function: Function) -> Loop:
    """Call a function that is no coroutine n times."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            function()

    return loop


def handed(call: Function, function: Function) -> Loop:
    """Await `call(function)` n times."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            await call(function)

    return loop


def handed_now(call: Function, function: Function) -> Loop:
    """Call `call(function)` n times, without a coroutine."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            call(function)

    return loop


def refused(function: Function, refusal: type[Exception]) -> Loop:
    """Await the function n times and see it refused each time."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            try:
                await function()
            except refusal:
                pass
            else:
                raise NotRefusedError

    return loop


def refused_now(function: Function, refusal: type[Exception]) -> Loop:
    """Do the same without a coroutine."""

    async def loop(calls: int) -> None:
        for _ in range(calls):
            try:
                function()
            except refusal:
                pass
            else:
                raise NotRefusedError

    return loop


BARE: dict[str, Loop] = {
    "await": awaited(answer),
    "call": plain(answer_now),
    "await raise": refused(refuse, BareError),
    "call raise": refused_now(refuse_now, BareError),
}
"""What is taken off: by name."""
