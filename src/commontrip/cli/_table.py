"""`watch` on a terminal: every breaker with one to three lines, whichever the width allows."""

import asyncio
import contextlib
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from commontrip._state import Override, State
from commontrip.cli import _words
from commontrip.cli._facts import Facts
from commontrip.cli._watch import Face, Seen

_TICK = 0.25  # seconds between two pictures, so that countdowns run
_WIDE, _MIDDLE = 110, 62  # columns for one line per breaker, and for two
_STYLES = {
    State.CLOSED: "green",
    State.OPEN: "bold red",
    State.HALF_OPEN: "bold yellow",
    Override.FORCED_OPEN: "bold white on red",
    Override.DISABLED: "bold magenta",
    Override.OBSERVE: "bold cyan",
}
_URGENT = [State.OPEN, Override.FORCED_OPEN, State.HALF_OPEN, Override.DISABLED, Override.OBSERVE, State.CLOSED, None]
_COLUMNS = (("state", 11), ("failed", 14), ("left", 8), ("probes", 6), ("heard by", 9))


class Table(Face):
    """A live picture on the terminal's other screen, which leaves the first as it was."""

    async def run(self, seen: Seen) -> None:
        """Draw at every news and every tick, as large as the window is then."""
        console = Console(highlight=False, markup=False, emoji=False)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                seen.news.clear()
                live.update(picture(seen, console.width, console.height), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await seen.news.wait()


def picture(seen: Seen, width: int, height: int) -> Group:
    """Draw what is seen: what is not CLOSED first, so that it is in view."""
    found = sorted(seen.facts.values(), key=lambda facts: (_URGENT.index(_state(facts)), facts.name))
    head = list(_head(seen, width))
    each = 1 if width >= _WIDE else 2 if width >= _MIDDLE else 3
    room = max(1, (height - len(head) - 1) // each)
    rows = [row for facts in found[:room] for row in _rows(facts, width)]
    if len(found) > room:
        rows.append(_fit(f"and {len(found) - room} more, for which there is no room", width, "dim"))
    elif not found:
        rows.append(_fit(f"no breaker uses the prefix {seen.door.prefix} yet", width, "dim"))
    return Group(*head, *rows)


def _head(seen: Seen, width: int) -> Iterator[Text]:
    yield _fit(f"{seen.door.prefix}: {len(seen.facts)} breakers, Ctrl-C ends ({seen.door.place})", width, "dim")
    if seen.trouble:
        yield _fit(f"OLD NEWS: {seen.trouble}", width, "bold white on red")
    if width >= _MIDDLE:
        words = [_fit("breaker", _name_width(width)), *(_fit(word, size) for word, size in _COLUMNS)]
        yield _line(words + [_fit("last transition", 20)] * (width >= _WIDE), width, "underline")


def _rows(facts: Facts, width: int) -> Iterator[Text]:
    name, cells, last = _fit(facts.name, _name_width(width), "bold"), _cells(facts), _last(facts)
    if width >= _WIDE:
        yield _line([name, *cells, Text(_words.clean(last))], width)
    elif width >= _MIDDLE:
        yield _line([name, *cells], width)
        yield _fit(f"  {last}", width, "dim")
    else:
        yield _line([name, cells[0], cells[2]], width)
        words = [f"{word} {cell.plain.rstrip()}" for cell, (word, _) in zip(cells, _COLUMNS, strict=True)]
        yield _fit(f"  {words[1]}, {words[3]}, {words[4]}", width)
        yield _fit(f"  {last}", width, "dim")


def _name_width(width: int) -> int:
    if width >= _MIDDLE:
        return min(40, width - sum(size + 1 for _, size in _COLUMNS) - (width >= _WIDE) * 30)
    return max(8, width - 21)


def _cells(facts: Facts) -> list[Text]:
    state, view = _state(facts), facts.view
    left = facts.ordered if facts.order else facts.remaining
    due = "due" if state == State.OPEN else ""
    failures, calls = view.counts.failures, view.counts.calls
    if facts.transition and facts.transition.state == State.OPEN and not facts.order:
        failures, calls = facts.transition.failures, facts.transition.calls
    words = (
        str(state or "not there"),
        f"{failures}/{calls}",
        _words.span(left) if left else due,
        str(view.in_flight),
        f"{facts.aware}/{len(facts.replicas)}",
    )
    styles = (_STYLES[state] if state else "dim", "", "", "", "")
    return [_fit(word, size, style) for word, (_, size), style in zip(words, _COLUMNS, styles, strict=True)]


def _last(facts: Facts) -> str:
    made = facts.transition
    if not made:
        return "waiting for its first use"
    hand = f"SET {facts.view.by_hand} by hand; " if facts.view.by_hand else ""
    why = f"{made.reason}, {facts.note}" if facts.order else made.reason
    return f"{hand}{_words.span(max(0.0, facts.now - made.since))} ago: {why}, by {made.replica}"


def _state(facts: Facts) -> State | Override | None:
    return facts.order or (facts.transition.state if facts.transition else None)


def _fit(text: str, width: int, style: str = "") -> Text:
    """Return one line of just this width, cut if need be."""
    cell = Text(_words.clean(text), style=style, no_wrap=True)
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell


def _line(cells: list[Text], width: int, style: str = "") -> Text:
    line = Text(" ", no_wrap=True, style=style).join(cells)
    line.truncate(width, overflow="ellipsis")
    return line
