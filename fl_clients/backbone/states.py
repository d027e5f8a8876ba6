"""Hidden states of the bare backbone at the end of texts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from fl_clients.backbone.batches import Example
from fl_clients.backbone.forward import Forward
from strategies.blocks import find_blocks, find_mlp


@torch.no_grad()
def end_states(forward: Forward, examples: Sequence[Example], place: Literal["block", "mlp"]) -> torch.Tensor:
    """Return the states at the last token of each example; [examples, blocks, d], fp32 on the CPU.

    Args:
        forward: Without a frozen prefix, since every block is read.
        examples: Left-padded together, so that all end at the same position.
        place: The output of a block, or of the MLP in it.
    """
    blocks = find_blocks(forward.backbone.model)
    modules = [block if place == "block" else find_mlp(block) for block in blocks]
    by_block: dict[int, torch.Tensor] = {}

    def reading(number: int) -> Any:
        def read(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            by_block[number] = hidden.reshape(len(examples), -1, hidden.shape[-1])[:, -1].float().cpu()

        return read

    hooks = [module.register_forward_hook(reading(number)) for number, module in enumerate(modules)]
    try:
        forward.run(None, examples, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([by_block[number] for number in range(len(modules))], dim=1)
