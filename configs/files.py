"""Writing a file so that a reader, or a run that is killed, finds the whole file or the one before."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, content: str | bytes | Callable[[Path], None], private: bool = False) -> None:
    """Write beside a file, then rename into its place.

    Args:
        path: The file.
        content: Text, bytes, or a function that writes the file it is given.
        private: Only the owner may read it.
    """
    # The process id keeps two writers apart; what a killed one leaves ends in .tmp.
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        if private:
            scratch.touch(mode=0o600)
        if isinstance(content, str):
            scratch.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            scratch.write_bytes(content)
        else:
            content(scratch)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
