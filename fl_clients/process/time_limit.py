"""The time limit of a task: only ending the process can stop a hang in native code."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited_to(seconds: float) -> Iterator[None]:
    """End this process, with a traceback on standard error, if the block takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
