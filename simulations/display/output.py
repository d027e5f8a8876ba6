"""Standard output that may be closed or full: what cannot be shown is given up; and texts that are safe to show."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any


def printable(text: str) -> str:
    """Return a text without control characters: an error may quote a file, which must not command the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ForgivingOutput:
    """A text stream whose first failed write sends everything after it nowhere."""

    def __init__(self, stream: Any) -> None:
        """Wrap an open stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or give it up."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush what was written, or give it up."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        """Be the stream in everything else."""
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        # What the stream still holds is written at the end of the process, and must not fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self._stream is not sys.__stderr__:
            with contextlib.suppress(OSError):
                print(f"fedperfit: the output cannot be written: {error.strerror}", file=sys.stderr)


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
    """Give up what cannot be shown inside the context: a pipe that was closed, a full disk, a terminal that is gone."""
    _open_closed_streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = ForgivingOutput(sys.stdout), ForgivingOutput(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    """Give a process that was started with closed streams (`>&-`) empty ones, before files take their numbers."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
        elif name != "stdin" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow
