"""Two directions of an MLP's output, one strengthened and one removed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from strategies.blocks import find_blocks, find_mlp
from strategies.steering.everywhere import EditsEverywhere


class EditedMlps(EditsEverywhere):
    """x ← x + α⟨x, θᴾ⟩θᴾ, then x ← x − α⟨x, θᴺ⟩θᴺ at the MLP outputs of chosen blocks, at all positions (Chameleon).

    The directions have length 1; one of length 0 changes nothing.
    """

    def __init__(self, model: nn.Module, hidden: int, strength: float) -> None:
        """Attach to `model`, without any edit.

        Args:
            model: A frozen causal language model.
            hidden: d, the width of the residual stream.
            strength: α; the source has 1.
        """
        super().__init__()
        blocks = find_blocks(model)
        device = next(model.parameters()).device
        self.personal: torch.Tensor
        self.neutral: torch.Tensor
        self.register_buffer("personal", torch.zeros(len(blocks), hidden, device=device))
        self.register_buffer("neutral", torch.zeros(len(blocks), hidden, device=device))
        self.strength = strength
        self.selected: list[int] = []
        """Places of the items that precede the user's questions."""
        self._edited: set[int] = set()
        for place, block in enumerate(blocks):
            find_mlp(block).register_forward_hook(self._hook(place))

    def edit(self, layers: torch.Tensor, personal: torch.Tensor, neutral: torch.Tensor) -> None:
        """Edit these blocks only, [n], with directions [n, d]."""
        for buffer, value in ((self.personal, personal), (self.neutral, neutral)):
            buffer.zero_()
            buffer[layers.long()] = value.to(buffer.device)
        self._edited = set(layers.tolist())

    def _hook(self, place: int) -> Callable[[nn.Module, Any, Any], Any]:
        def edit(_module: nn.Module, _args: Any, output: Any) -> Any:
            if not self.acts or place not in self._edited:
                return output
            x = (output if isinstance(output, torch.Tensor) else output[0]).float()
            for direction, sign in ((self.personal[place], 1), (self.neutral[place], -1)):
                x = x + sign * self.strength * (x @ direction)[..., None] * direction
            x = x.to((output if isinstance(output, torch.Tensor) else output[0]).dtype)
            return x if isinstance(output, torch.Tensor) else (x, *output[1:])

        return edit
