"""A bounded store of hidden states on disk, which every process of this machine reads.

An entry is one safetensors file, named after everything its content depends on, so an entry is right or it is not
there: what another backbone, version or number format left is never found. Writers make a file whole and then rename
it, so two of them at once leave one. Each tensor's checksum stands in its file; a damaged file is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from configs.paths import cache_dir

_VERSION = 1
_LOG = logging.getLogger("fedperfit")


def activation_folder() -> Path | None:
    """Return the folder this machine's processes share, made if missing; None where it cannot be written."""
    folder = cache_dir() / "activations"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


class ActivationStore:
    """Named tensors by key, the least recently used forgotten first."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Open or make a store.

        Args:
            folder: Shared by every process that shall share the entries.
            limit: Bytes all entries may take together. Several writers may exceed it by a twentieth each.
        """
        self._folder = folder
        self._limit = limit
        self._written = limit  # look at what is there before the first entry
        self._writing = True

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """Return an entry, memory-mapped; None where there is none, or none that is whole."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                marks = json.loads((file.metadata() or {})["crc32"])
                tensors = {name: file.get_tensor(name) for name in marks}
            if any(_crc32(tensor) != marks[name] for name, tensor in tensors.items()):
                raise ValueError("checksum")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a folder of somebody else's may be read all the same
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry, unless it does not fit or the folder cannot be written; that is said once."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if not self._writing or size > self._limit:
            return
        path = self._path(key)
        scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self._make_room(size)
            path.parent.mkdir(parents=True, exist_ok=True)
            marks = {name: _crc32(tensor) for name, tensor in tensors.items()}
            save_file(dict(tensors), scratch, metadata={"crc32": json.dumps(marks)})
            scratch.replace(path)
        except (OSError, SafetensorError) as error:
            self._writing = False
            _LOG.warning("hidden states are not kept any more, the run goes on without: %s: %s", self._folder, error)
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        self._written += size
        # Looking at every file for every entry would cost more than the entry.
        if self._written <= self._limit // 20:
            return
        entries = []
        for path in self._folder.rglob("*.safetensors"):
            try:
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
            except FileNotFoundError:
                continue
        total = sum(entry[1] for entry in entries)
        for _, bytes_of, path in sorted(entries):
            if total + size <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= bytes_of
        self._written = 0

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


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
