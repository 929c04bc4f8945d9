"""The commands and their options. What a command needs is imported when it runs, so that `--help` is quick."""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from commontrip import Override, StoreUnavailableError, _check
from commontrip._breaker import LONGEST_ORDER
from commontrip._errors import StoreSilentError
from commontrip.cli import _facts, _words

if TYPE_CHECKING:
    from commontrip.cli._door import Door

DEFAULT_URL = "redis://127.0.0.1:6379/0"
PATIENCE = 5.0
"""Seconds that a command may wait for Redis; `doctor` and `watch` have limits of their own."""


class Exit(IntEnum):
    """What a command ends with."""

    DONE = 0
    AWAY = 1
    """Redis cannot be reached, or refuses."""
    USAGE = 2
    OPEN = 3
    HALF_OPEN = 4
    UNKNOWN = 5
    """There is no such breaker."""
    OVERTAKEN = 6
    """The order was given, and somebody else has changed the state since."""


class Order(StrEnum):
    """What an operator can order."""

    FORCED_OPEN = "forced-open"
    DISABLED = "disabled"
    OBSERVE = "observe"
    AUTO = "auto"


@dataclass(frozen=True)
class Place:
    """Where the breakers are."""

    url: str
    prefix: str

    def door(self) -> "Door":
        """Make the door to Redis; a wrong address or prefix ends the program."""
        from commontrip.cli._door import Door  # noqa: PLC0415

        try:
            return Door(self.url, self.prefix)
        except ValueError as error:
            _end(str(error), Exit.USAGE)


app = typer.Typer(
    name="commontrip",
    help=(
        "Look at circuit breakers shared through Redis, and give orders to them.\n\n"
        "Needs Redis only, no service. REDIS_USERNAME and REDIS_PASSWORD are used if the URL has no login.\n\n"
        "Exit codes: 0 done, 1 Redis cannot be reached or refuses, 2 wrong usage, 5 no such breaker;"
        " doctor: 0 all is well, 1 a warning, 2 a fault."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[
    str,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        help="redis://, rediss://, unix://, redis+sentinel://host,…/service or redis+cluster://host,…",
    ),
]
Prefix = Annotated[str, typer.Option("--prefix", envvar="REDIS_PREFIX", help="First part of every key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Name = Annotated[str, typer.Argument(help="The breaker's name.", metavar="NAME")]


@app.callback()
def _prepare() -> None:
    if isinstance(sys.stdout, TextIOWrapper):  # what the terminal cannot show must not stop the program
        sys.stdout.reconfigure(errors="backslashreplace")


@app.command()
def watch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Breakers to watch; all without.", metavar="[NAME]...")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two polls; transitions are pushed.")] = 1.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per transition.")] = False,
    url: Url = DEFAULT_URL,
    prefix: Prefix = "cb",
) -> None:
    """Show breakers live, until Ctrl-C.

    If the output is no terminal, or with --json: a line for each transition from now on.
    """
    from commontrip.cli import _watch  # noqa: PLC0415

    wanted = [_name(name) for name in names or []]
    pause = _valid(_check.number, "--interval", interval, 0.1, 3600)

    async def work(door: "Door") -> int:
        await _watch.watch(door, wanted, pause, as_json=as_json)
        return Exit.DONE

    _run(Place(url, prefix), work)


@app.command()
def show(
    name: Name,
    *,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 0 CLOSED, 3 OPEN, 4 HALF_OPEN.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    prefix: Prefix = "cb",
) -> None:
    """Say what the fleet knows of a breaker. Ends with 5 if there is none."""

    async def work(door: "Door") -> int:
        facts = await _find(door, name)
        _json(facts.plain()) if as_json else _lines(_words.portrait(facts))
        state = facts.transition.state.name if facts.transition else ""
        return Exit[state] if exit_code and state in Exit.__members__ else Exit.DONE

    _run(Place(url, prefix), work, name)


@app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option(help="Transitions at most, 1 to 100000.")] = 20,
    *,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    prefix: Prefix = "cb",
) -> None:
    """List a breaker's last transitions, the newest first. Ends with 5 if there is none."""
    count = _valid(_check.whole, "--limit", limit, 1, 100_000)

    async def work(door: "Door") -> int:
        past = await door.history(name, count)
        if not past:
            await _find(door, name)
        if as_json:
            _json([_facts.plain(made) | {"note": note} for made, note in past])
        else:
            _lines([_words.line(name, made, note) for made, note in past])
        return Exit.DONE

    _run(Place(url, prefix), work, name)


@app.command()
def override(
    name: Name,
    order: Annotated[Order, typer.Argument(help="What to order; auto takes the order back, and resets the breaker.")],
    reason: Annotated[str, typer.Option(help="Why, for the history.")],
    author: Annotated[str, typer.Option(help="Who says so; you, if not given.", show_default=False)] = "",
    lasting: Annotated[str, typer.Option("--for", help="How long, such as 90s, 10m, 2h or 7d.")] = "1h",
    *,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    prefix: Prefix = "cb",
) -> None:
    """Order the whole fleet to hold a state for a while. Ends with 5 if there is no such breaker.

    It replaces an order that is in force, and says which. Ends with 6 if somebody has changed the state again since.
    """
    from commontrip.cli._order import give  # noqa: PLC0415

    by = _valid(_check.text, "--author", author or _user())
    why = _valid(_check.text, "--reason", reason)
    length = _valid(_check.number, "--for", _valid(_words.seconds, lasting), 1, LONGEST_ORDER)
    wanted = None if order == Order.AUTO else Override[order.name]

    async def work(door: "Door") -> int:
        before = await _find(door, name)
        try:
            given = await give(door, before, wanted, author=by, reason=why, seconds=length)
        except (StoreSilentError, TimeoutError):
            _end(f"Redis gave no answer: look with `commontrip show {name}` whether it was done", Exit.AWAY)
        [after] = await door.look_at([name])
        overtaken = after.epoch != given.epoch
        if as_json:
            _json(after.plain() | {"ordered": given.epoch, "overtaken": overtaken, "before": before.plain()})
        else:
            _lines([_words.ordered(before, wanted, length), *_words.portrait(after)])
        if overtaken:
            _words.say("commontrip: the order was given, and somebody has changed the state since", error=True)
        return Exit.OVERTAKEN if overtaken else Exit.DONE

    _run(Place(url, prefix), work, name)


@app.command()
def doctor(*, as_json: Json = False, url: Url = DEFAULT_URL, prefix: Prefix = "cb") -> None:
    """Examine Redis and what is kept in it. Ends with 0 if all is well, 1 after a warning, 2 after a fault."""
    from commontrip.cli import _doctor  # noqa: PLC0415

    async def work(door: "Door") -> int:
        checks = await _doctor.examine(door)
        _json(_doctor.plain(door, checks)) if as_json else _lines(_doctor.lines(door, checks))
        return _doctor.verdict(checks)

    _run(Place(url, prefix), work)


# -- what they share


def _run(place: Place, work: Callable[["Door"], Coroutine[Any, Any, int]], name: str = "") -> None:
    """Do the work against Redis, if it is about one breaker within a limit, and end with its code."""
    patience = PATIENCE if name else None
    if name:
        _name(name)
    door = place.door()

    async def whole() -> int:
        try:
            async with asyncio.timeout(patience):
                return await work(door)
        finally:
            await door.aclose()

    try:
        code = asyncio.run(whole())
    except StoreUnavailableError as error:
        _end(door.words(error), Exit.AWAY)
    except TimeoutError:
        _end(f"Redis at {door.place}: no answer for {patience:g} s; is it overloaded?", Exit.AWAY)
    raise typer.Exit(code)


async def _find(door: "Door", name: str) -> _facts.Facts:
    [facts] = await door.look_at([name])
    if not facts.transition:
        _end(f"there is no breaker {name!r} under the prefix {door.prefix!r}", Exit.UNKNOWN)
    return facts


def _lines(lines: list[str]) -> None:
    for line in lines:
        _words.say(line)


def _json(found: Any) -> None:
    _words.say(json.dumps(found, indent=2))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _name(name: str) -> str:
    return str(_valid(_check.name, "NAME", name))


def _valid(check: Callable[..., Any], *words: Any) -> Any:
    try:
        return check(*words)
    except ValueError as error:
        _end(str(error), Exit.USAGE)


def _end(why: str, code: Exit) -> NoReturn:
    _words.say(f"commontrip: {_words.clean(why)}", error=True)
    raise typer.Exit(code)
