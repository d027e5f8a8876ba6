"""A vector that is added to the residual stream where an answer is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from strategies.blocks import find_blocks


class AddedVector(nn.Module):
    """h_t ← h_t + v at the output of one block, from a prompt's last token on: there the answer begins."""

    suffix: int | None = 1

    def __init__(self, model: nn.Module, block: int, hidden: int) -> None:
        """Attach to `model`, with v = 0.

        Args:
            model: A frozen causal language model.
            block: The decoder block, counted from 0.
            hidden: d, the width of the residual stream.
        """
        super().__init__()
        self.frozen_blocks = block + 1
        self.v: torch.Tensor
        self.register_buffer("v", torch.zeros(hidden, device=next(model.parameters()).device))
        self._where: torch.Tensor | None = None
        find_blocks(model)[block].register_forward_hook(self._add)

    @contextmanager
    def active(self, prompt: torch.Tensor) -> Iterator[None]:
        """Let the vector act, inside the context, from the last prompt token of the mask [batch, length] on."""
        places = torch.arange(prompt.shape[1], device=prompt.device)
        # A pass without a prompt token continues an answer: all of it is steered.
        last = torch.where(prompt, places, -1).amax(dim=1, keepdim=True)
        self._where = (places >= last)[..., None]
        try:
            yield
        finally:
            self._where = None

    def _add(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        if self._where is None:
            return output
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        steered = torch.where(self._where, (hidden.float() + self.v).to(hidden.dtype), hidden)
        return steered if isinstance(output, torch.Tensor) else (steered, *output[1:])
