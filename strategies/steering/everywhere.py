"""What edits share that act at every position, of prompts and answers alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EditsEverywhere(nn.Module):
    """A switch for edits by hooks: they act inside `active` only."""

    frozen_blocks = 0
    suffix: int | None = None

    def __init__(self) -> None:
        """Start inactive."""
        super().__init__()
        self.acts = False

    @contextmanager
    def active(self, _prompt: torch.Tensor) -> Iterator[None]:
        """Let the edits act inside the context, wherever the prompt is."""
        self.acts = True
        try:
            yield
        finally:
            self.acts = False
