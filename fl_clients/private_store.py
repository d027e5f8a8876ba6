"""What a client keeps on its disk, one safetensors file per user: private tensors, and what it kept from its turns."""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from strategies.method import Tensors


def private_path(folder: Path, partition: int) -> Path:
    """Return a user's file; partitions are numbers, so no user id ever becomes a path."""
    return folder / f"{int(partition)}.safetensors"


def write_private(folder: Path, partition: int, tensors: Tensors) -> None:
    """Write a user's private tensors: whole or not at all, readable by the owner alone.

    Raises:
        ValueError: A tensor's name begins neither with `private_` nor with `kept_`.
    """
    for name in tensors:
        if not name.startswith(("private_", "kept_")):
            raise ValueError(f"tensor '{name}' is not private: names in the private store begin with private_ or kept_")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = private_path(folder, partition)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({name: value.contiguous() for name, value in tensors.items()}, scratch)
    scratch.chmod(0o600)
    scratch.replace(path)


def read_private(folder: Path, partition: int) -> Tensors:
    """Return what a user has kept; empty if nothing."""
    path = private_path(folder, partition)
    return load_file(path) if path.is_file() else {}
