"""`commontrip`, the command line: watch breakers, ask about one, give an operator's order, find what is wrong.

It talks to Redis alone, so it also works where no service runs, and it is no replica: it counts nothing, and changes
nothing but what `override` is told to.
"""

import sys

_EXTRAS = ("redis", "rich", "typer")


def main() -> None:
    """Run the command line. What it needs is imported only when needed; if it is not there, say how to get it."""
    try:
        from commontrip.cli._app import app  # noqa: PLC0415 - so that a missing package gets one line

        app()
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        if package not in _EXTRAS:
            raise
        sys.stderr.write(f"commontrip: the package {package} is missing: pip install 'commontrip[cli,redis]'\n")
        sys.exit(2)
