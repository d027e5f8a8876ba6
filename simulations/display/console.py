"""The console for human-readable output."""

import os
import sys

from rich.console import Console

_WIDE, _NARROW = 160, 40


def console() -> Console:
    """Return the console for human-readable output: standard output, without markup, highlighting or emoji codes.

    If the output is not a terminal, tables are as wide as they need to be, up to 160 characters.
    """
    screen = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _NARROW:
        screen.width = _NARROW
    elif not screen.is_terminal and not columns.isdecimal():
        screen.width = _WIDE
    return screen
