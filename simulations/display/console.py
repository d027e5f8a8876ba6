"""The console for human-readable output."""

import os
import sys

from rich.console import Console

_WIDE = 160


def console() -> Console:
    """Return the console for human-readable output: standard output, without markup, highlighting or emoji codes.

    If the output is not a terminal, tables are as wide as they need to be, up to 160 characters.
    """
    screen = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _WIDE
    return screen
