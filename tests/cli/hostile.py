"""What others write, and a terminal must not obey."""

import unicodedata

HOSTILE = (
    "\x1b[31m\x1b]0;title\x07\x9b2J\u202eturned\u2066\u2028\u2029line\nbreak\r\t[red]markup[/red] :smile: \x7f\x00"
)
"""Escapes, C1, a bell, bidi marks, line ends of all kinds, markup."""


def is_harmless(text: str) -> bool:
    """Whether nothing in it is more than a letter, but for the line ends."""
    return all(unicodedata.category(letter) not in {"Cc", "Cf", "Zl", "Zp"} for letter in text.replace("\n", ""))
