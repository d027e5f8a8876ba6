"""A bounded store of hidden states on disk, which every process of this machine reads.

An entry is one safetensors file, named after everything its content depends on, so an entry is right or it is not
there: what another backbone, version or number format left is never found. Writers make a file whole and then rename
it, so two of them at once leave one. Each tensor's checksum stands in its file; a damaged file is made again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from configs.paths import cache_dir

_VERSION = 1
_ABANDONED = 3600.0
"""Seconds after which an unfinished entry is a killed writer's."""


def activation_folder() -> Path | None:
    """Return the folder this machine's processes share, made if missing; None where it cannot be written."""
    folder = cache_dir() / "activations"
    try:
        # They follow from users' texts: nobody else's to read.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


class ActivationStore:
    """Named tensors by key, the least recently used forgotten first."""

    def __init__(self, folder: Path, limit: int, say: Callable[[str], None]) -> None:
        """Open or make a store, and bring it within its limit.

        Args:
            folder: Shared by every process that shall share the entries.
            limit: Bytes all entries may take together. Several writers may exceed it by a twentieth each.
            say: Told, once, why entries are not kept.
        """
        self._folder = folder
        self._limit = limit
        self._say = say
        self._written = limit
        self._writing = True
        self._make_room(0)

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """Return an entry, memory-mapped; None where there is none, or none that is whole."""
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
        with contextlib.suppress(OSError):  # a folder of somebody else's may be read all the same
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry, unless it does not fit or the folder cannot be written; that is said once."""
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
        # Looking at every file for every entry would cost more than the entry.
        if self._written <= self._limit // 20:
            return
        entries = []
        for entry in _files_below(self._folder):
            with contextlib.suppress(OSError):  # gone meanwhile
                found = entry.stat()
                if entry.name.endswith(".tmp") and time.time() - found.st_mtime > _ABANDONED:
                    Path(entry).unlink()
                else:
                    entries.append((found.st_mtime_ns, found.st_size, entry.path))
        total = sum(entry[1] for entry in entries)
        for _, bytes_of, path in sorted(entries):
            if total + size <= self._limit:
                break
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)
                total -= bytes_of
        self._written = 0

    def _stop(self, reason: str) -> None:
        self._writing = False
        self._say(f"hidden states are not kept any more, the run goes on without: {self._folder}: {reason}")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Give the files of a folder's folders; there may be a hundred thousand, too many for a Path each."""
    with contextlib.suppress(OSError), os.scandir(folder) as folders:  # not there, or nobody's to read
        for each in folders:
            with contextlib.suppress(OSError), os.scandir(each) as files:  # gone meanwhile
                yield from files


def key_of(*parts: object) -> str:
    """Name an entry after what its content depends on; parts are JSON values."""
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of a model's weights, to the last bit."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _crc32(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
