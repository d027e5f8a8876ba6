"""The console that people read."""

import os
import sys

from rich.console import Console

_WIDE = 160


def console() -> Console:
    """Return the console that people read: standard output, where every text stands for itself.

    Off a terminal tables are as wide as they need to be, up to a long line.
    """
    screen = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _WIDE
    return screen
