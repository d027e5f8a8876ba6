"""Scales and biases on the outputs of attention heads, before they are projected into the residual stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from strategies.blocks import find_attention_output, find_blocks
from strategies.steering.everywhere import EditsEverywhere


class EditedHeads(EditsEverywhere):
    """z_{l,h} ← (1 + A_{l,h}) ⊙ z_{l,h} + v_{l,h} for every head h of every block l, at all positions (LoFiT, sec. 3).

    A has a value for every head. v = v⁽¹⁾ + v⁽²⁾, a collective and a personal part, is 0 except on chosen heads.
    """

    def __init__(self, model: nn.Module, heads: int, chosen: int) -> None:
        """Attach to `model`, with A = 0 and v = 0.

        Args:
            model: A frozen causal language model.
            heads: H, the query heads of a block.
            chosen: K, the number of heads with a bias.
        """
        super().__init__()
        outputs = [find_attention_output(block) for block in find_blocks(model)]
        self.shape = len(outputs), heads, _inputs(outputs[0]) // heads
        device = next(model.parameters()).device
        blocks, _, size = self.shape
        self.A = nn.Parameter(torch.zeros(blocks, heads * size, device=device), requires_grad=False)
        self.biases = nn.ParameterDict(
            {
                part: nn.Parameter(torch.zeros(chosen, size, device=device), requires_grad=False)
                for part in ("collective", "personal")
            }
        )
        self.register_buffer("chosen", torch.zeros(chosen, dtype=torch.long, device=device))
        for place, module in enumerate(outputs):
            module.register_forward_pre_hook(self._hook(place))

    def bias(self, block: int) -> torch.Tensor:
        """Return v of a block's heads, [H · size]."""
        _, heads, size = self.shape
        head = self.get_buffer("chosen") - block * heads
        here = (head >= 0) & (head < heads)
        total = (self.biases["collective"] + self.biases["personal"])[here]
        return torch.zeros(heads, size, device=total.device).index_add(0, head[here], total).flatten()

    def _hook(self, place: int) -> Callable[[nn.Module, Any], Any]:
        def edit(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
            if not self.acts:
                return None
            z = args[0]
            return ((z.float() * (1 + self.A[place]) + self.bias(place)).to(z.dtype), *args[1:])

        return edit


def strongest_heads(A: torch.Tensor, heads: int, count: int) -> torch.Tensor:
    """Return the heads with the largest ‖A_{l,h}‖₂, [count], as l · H + h in increasing order.

    Args:
        A: [blocks, H · size].
        heads: H.
        count: How many; at most all.
    """
    norms = A.reshape(A.shape[0] * heads, -1).norm(dim=1)
    strongest: torch.Tensor = norms.argsort(descending=True, stable=True)[:count].sort().values
    return strongest


def _inputs(module: nn.Module) -> int:
    # A Conv1D of GPT-2 has its inputs first, a Linear last.
    outputs, inputs = module.get_parameter("weight").shape
    return int(inputs if isinstance(module, nn.Linear) else outputs)
