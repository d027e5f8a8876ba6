"""Reads a record's tensors. Apart from `folder`, so that commands which only list records do not load PyTorch."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.errors import InputError


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        InputError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable: {error}") from None
