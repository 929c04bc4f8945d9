"""`watch` where there is no terminal: a line, or a JSON object, for each transition."""

import asyncio
import json

from commontrip._transition import Transition
from commontrip.cli import _facts, _words
from commontrip.cli._watch import Face, Seen


class Lines(Face):
    """Prints transitions; that Redis is away goes to the error stream."""

    tells = True

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json

    async def run(self, seen: Seen) -> None:  # noqa: ARG002 - it is told
        """Wait: there is nothing to show between two transitions."""
        await asyncio.Event().wait()

    def tell(self, name: str, made: Transition, note: str) -> None:
        """Print it at once."""
        if self._json:
            _words.say(json.dumps({"breaker": name} | _facts.plain(made) | {"note": note}))
        else:
            _words.say(_words.line(name, made, note))

    def trouble(self, words: str) -> None:
        """Say it once, and once that it is over."""
        _words.say(f"commontrip: {_words.clean(words or 'Redis answers again')}", error=True)
