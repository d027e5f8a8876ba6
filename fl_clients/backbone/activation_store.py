"""A bounded store of hidden states on disk, shared by all processes of a machine.

An entry is one safetensors file, named after everything its content depends on, so entries of another backbone, version
or number format are never found. Writers complete a file before they rename it, so two concurrent writers leave one
whole file. Each file contains its tensors' checksums; a damaged file is deleted and computed again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from configs.files import write_atomic
from configs.paths import cache_dir

_VERSION = 1
_ABANDONED = 3600.0
"""Age in seconds at which an unfinished entry counts as left by a killed writer."""
_SCANNED = "scanned"
"""File whose time of change says when a process last looked through all entries, and whose content is its limit."""
_FRESH = 60.0
"""Seconds for which a new process relies on that: looking through 100,000 entries takes as long as loading a model."""


def activation_folder() -> Path | None:
    """Return the folder that this machine's processes share, created if missing; None if it is not writable."""
    folder = cache_dir() / "activations"
    try:
        # Hidden states derive from users' texts, so only the owner may read them.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:  # made by an older version, or by hand
            folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


class ActivationStore:
    """Named tensors by key; the least recently used entries are removed first."""

    def __init__(self, folder: Path, limit: int, log: Callable[[str], None]) -> None:
        """Open or create a store, and remove entries beyond its limit.

        Args:
            folder: The folder that processes use to share entries.
            limit: Maximum size of all entries in bytes. Every process may exceed it by a twentieth.
            log: Called once, with the reason, if entries can no longer be written.
        """
        self._folder = folder
        self._limit = limit
        self._log = log
        self._written = 0 if self._was_scanned() else limit
        self._writing = True
        self._make_room(0)

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """Return an entry, memory-mapped; None if it is missing or damaged."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                marks = json.loads((file.metadata() or {})["crc32"])
                tensors = {name: file.get_tensor(name) for name in marks}
            if any(_crc32(tensor) != marks[name] for name, tensor in tensors.items()):
                raise ValueError("checksum")
        except OSError:
            return None
        except (SafetensorError, ValueError, KeyError, TypeError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a read-only folder can still be read
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write an entry; if it does not fit or the folder is not writable, log that once and stop writing."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if not self._writing:
            return
        if size > self._limit:
            self._stop(f"one entry takes {size:,} bytes, more than the limit of {self._limit:,}")
            return
        path = self._path(key)
        scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            self._make_room(size)
            path.parent.mkdir(parents=True, exist_ok=True)
            marks = {name: _crc32(tensor) for name, tensor in tensors.items()}
            save_file(dict(tensors), scratch, metadata={"crc32": json.dumps(marks)})
            scratch.replace(path)
        except (OSError, SafetensorError) as error:
            self._stop(str(error))
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        self._written += size
        # Scanning all files for every entry would cost more than the entry.
        if self._written <= self._limit // 20:
            return
        entries = []
        for entry in _files_below(self._folder):
            with contextlib.suppress(OSError):  # deleted meanwhile
                info = entry.stat()
                if entry.name.endswith(".tmp") and time.time() - info.st_mtime > _ABANDONED:
                    Path(entry).unlink()
                else:
                    entries.append((info.st_mtime_ns, info.st_size, entry.path))
        total = sum(entry[1] for entry in entries)
        for _, entry_size, path in sorted(entries):
            if total + size <= self._limit:
                break
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)
                total -= entry_size
        self._written = 0
        with contextlib.suppress(OSError):
            write_atomic(self._folder / _SCANNED, str(self._limit))

    def _was_scanned(self) -> bool:
        """Tell whether another process has just applied this limit or a smaller one."""
        mark = self._folder / _SCANNED
        with contextlib.suppress(OSError, ValueError):
            return 0 <= time.time() - mark.stat().st_mtime < _FRESH and int(mark.read_text()) <= self._limit
        return False

    def _stop(self, reason: str) -> None:
        self._writing = False
        self._log(f"hidden states are no longer stored, the run continues without them: {self._folder}: {reason}")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files in a folder's subfolders; there may be 100,000, so no Path is made for each."""
    with contextlib.suppress(OSError), os.scandir(folder) as subfolders:  # missing or unreadable
        for subfolder in subfolders:
            with contextlib.suppress(OSError), os.scandir(subfolder) as files:  # deleted meanwhile
                yield from files


def key_of(*parts: object) -> str:
    """Return an entry's key: a hash of everything its content depends on, given as JSON values."""
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of a model's weights, exact to the last bit."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _crc32(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
