"""File writes: atomic ones, of which readers see the whole new file or the previous one; JSON lines; `.gitignore`."""

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    # Two writers may be on different machines that share a folder. A killed one leaves a file that ends in .tmp.
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
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


def secret_number(path: Path) -> int:
    """Return a random number of 256 bits that a file keeps, for its owner only; the first call draws it."""
    if not path.is_file():
        write_atomic(path, secrets.token_hex(32), private=True)
    return int(path.read_text(encoding="utf-8"), 16)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line, stamped with the time in seconds since the epoch."""
    line = json.dumps({"time": round(time.time(), 3), **value}, ensure_ascii=False)
    with path.open("ab") as file:
        # A single write in append mode keeps the line whole, even if other processes write or are killed.
        file.write(line.encode() + b"\n")
