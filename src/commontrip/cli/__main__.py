"""`python -m commontrip.cli`."""

from commontrip.cli import main

main()
