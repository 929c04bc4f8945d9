"""Words for people: durations, times, sentences; and what others wrote, made harmless for a terminal."""

import datetime as dt
import re
import sys

from commontrip._state import Override, State
from commontrip._transition import Transition
from commontrip.cli._facts import Facts

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LATEST = 20  # replicas that are named, the latest first
_MINUTE = 60.0


def clean(text: object, most: int = 600) -> str:
    """Return a text as one line that a terminal only shows: controls, escapes, bidi marks and their like spelt out."""
    shown = "".join(map(_shown, str(text)[: most + 1]))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


def say(text: str, *, error: bool = False) -> None:
    """Print one line, at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def seconds(text: str) -> float:
    """Read a duration: a number of seconds, or with one of the units s, m, h, d; anything else is a `ValueError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        raise ValueError(f"a duration is a number and one of s, m, h, d, such as 10m, not {clean(text, 40)!r}")
    return float(match[1]) * _UNITS[match[2]]


def span(duration: float) -> str:
    """Return a duration, cut to at most two units, such as 9.5s, 1m05s, 3h02m, 6d01h."""
    if duration < _MINUTE:
        return f"{int(duration * 10) / 10}s"
    minutes, rest = divmod(int(duration), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def when(moment: float) -> str:
    """Return a time in UTC with milliseconds."""
    try:
        return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(" ", "milliseconds")[:23] + "Z"
    except (ValueError, OverflowError, OSError):  # what people write in a record may be any number
        return f"{moment:.0f}"


def story(made: Transition) -> str:
    """Say what a transition was: from, to, why, who, on what facts."""
    before = made.previous_state or "new"
    facts = f", {made.failures} of {made.calls} calls failed" if made.calls else ""
    error = f", last {clean(made.error, 100)}" if made.error else ""
    cooldown = f", cooldown {span(made.cooldown)}" if made.state == State.OPEN else ""
    return f"{before} -> {made.state} ({clean(made.reason, 40)}) by {clean(made.replica, 200)}{facts}{error}{cooldown}"


def line(name: str, made: Transition, note: str) -> str:
    """Return a transition as one line."""
    said = f', "{clean(note)}"' if note else ""
    return f"{when(made.since)} {clean(name)} {story(made)}{said}"


def portrait(facts: Facts) -> list[str]:
    """Describe a breaker that is there, a line for each thing worth saying."""
    made, view = facts.transition, facts.view
    if made is None:
        return [f"{clean(facts.name)}: not there"]
    lines = [f"{clean(facts.name)}: {facts.order or made.state}"]
    ago = span(max(0.0, facts.now - made.since))
    lines.append(f"  since      {when(made.since)}, {ago} ago: {story(made)}")
    if facts.order:
        lines.append(f'  order      {facts.order} for {span(facts.ordered)} more, "{clean(facts.note)}"')
    elif made.state == State.OPEN:
        left = span(facts.remaining) if facts.remaining else "over, the next call is a probe"
        lines.append(f"  cooldown   {span(made.cooldown)}, left: {left}; opened {made.opens} times in a row")
    if view.by_hand:
        lines.append(f"  by hand    somebody SET {view.by_hand}; the next replica that looks obeys")
    if view.retry_after:
        lines.append(f"  retry      the dependency wants to be left alone for {span(view.retry_after)}")
    counts = view.counts
    if facts.window:
        length = span(facts.window)
        lines.append(f"  calls      {counts.calls} in the last {length}: {counts.failures} failed, {counts.slow} slow")
    lines.append(f"  probes     {view.in_flight} in flight")
    lines.append(f"  replicas   {len(facts.replicas)} alive, {facts.aware} heard of this epoch")
    late = sorted(facts.replicas.items(), key=lambda one: -1e9 if one[1] is None else -one[1])
    lines += [f"             {clean(name, 200)}: {_lag(lag)}" for name, lag in late[:_LATEST]]
    lines += [f"             and {len(late) - _LATEST} more"] if len(late) > _LATEST else []
    return [*lines, f"  epoch      {facts.epoch}"]


def ordered(before: Facts, order: Override | None, lasting: float) -> str:
    """Say what was ordered, and what it replaces."""
    name = clean(before.name)
    done = f"{name}: ordered {order} for {span(lasting)}" if order else f"{name}: back to automatic"
    if not before.order:
        return done
    return f'{done}; this replaces {before.order}, which had {span(before.ordered)} left, "{clean(before.note)}"'


def _lag(lag: float | None) -> str:
    return "came later, or did not hear" if lag is None else f"after {lag * 1000:.0f} ms"
