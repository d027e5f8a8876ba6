"""File writes: atomic ones, of which readers see the complete new file or the previous one; and `.gitignore`."""

import os
from collections.abc import Callable
from pathlib import Path


def keep_out_of_git(folder: Path) -> None:
    """Write a `.gitignore` that keeps a folder with keys or users' data from being committed."""
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def write_atomic(path: Path, content: str | bytes | Callable[[Path], None], private: bool = False) -> None:
    """Write to a temporary file in the same folder, then rename it.

    Args:
        path: The file to write.
        content: Text, bytes, or a function that writes to a given path.
        private: Only the owner may read the file.
    """
    # The process id keeps two writers apart. A killed writer leaves a file that ends in .tmp.
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
