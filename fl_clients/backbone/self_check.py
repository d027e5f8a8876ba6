"""Finds out whether a model computes in padded batches, with kept keys and values, what it computes on its own."""

from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from fl_clients.backbone.batches import Example, collate
from strategies.blocks import find_blocks

_TEXTS = ("The quick brown fox jumps over the lazy dog, and then it sleeps.", "A second text of a few words")
_CONTINUED = 3
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest mean difference of logits, as a fraction of their spread; bf16 rounds every product."""


def check_arithmetic(backbone: Any) -> None:
    """Refuse a model on which shifts or batches would silently mean something else.

    Args:
        backbone: A loaded `Backbone`.

    Raises:
        ValueError: Says what is wrong.
    """
    _check_blocks(backbone)
    _check_batches(backbone)


@torch.no_grad()
def _check_blocks(backbone: Any) -> None:
    """Refuse blocks that do not hand on one residual stream, once per token."""
    outputs: list[Any] = []
    blocks = find_blocks(backbone.model)
    handles = [block.register_forward_hook(lambda _block, _args, output: outputs.append(output)) for block in blocks]
    try:
        backbone.model(input_ids=torch.tensor([backbone.tokenizer.encode(_TEXTS[0])], device=backbone.device))
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) != len(blocks):
        raise ValueError(f"its {len(blocks)} blocks run {len(outputs)} times in one pass, not once each")
    expected = (1, len(backbone.tokenizer.encode(_TEXTS[0])), backbone.shape.hidden)
    for output in outputs:
        shape = tuple((output[0] if isinstance(output, tuple) else output).shape)
        if shape != expected:
            raise ValueError(f"its blocks return a tensor of {shape}, not one residual stream of {expected}")


@torch.no_grad()
def _check_batches(backbone: Any) -> None:
    """Refuse a model whose batches are not what its single texts are.

    Families differ in how they count positions and mask what is left-padded or kept; some ignore `position_ids`, keep
    no keys and values, or look at later tokens. All of these would give wrong numbers without an error.
    """
    texts = [backbone.tokenizer.encode(text, add_special_tokens=False) for text in _TEXTS]
    prompts = [Example(text[:-_CONTINUED], []) for text in texts]
    alone = torch.stack(
        [
            backbone.model(input_ids=torch.tensor([text], device=backbone.device)).logits[0, -_CONTINUED - 1 :]
            for text in texts
        ]
    ).float()
    pad = int(backbone.tokenizer.pad_token_id or 0)
    batch, cache = collate(prompts, pad, backbone.device), DynamicCache()
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    mask, positions = batch.attention_mask, batch.position_ids
    batched = []
    for step in range(_CONTINUED + 1):
        output = backbone.run(cache, attention_mask=mask, position_ids=positions, use_cache=True, **inputs)
        batched.append(output.logits[:, -1])
        following = [[text[step - _CONTINUED]] for text in texts]
        inputs = {"input_ids": torch.tensor(following, device=backbone.device)}
        mask, positions = functional.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
    spread = alone.std(dim=-1).clamp(min=1e-6)
    apart = (torch.stack(batched, dim=1).float() - alone).abs().mean(dim=-1) / spread
    tolerance = _TOLERANCE.get(backbone.model.dtype, 0.1)
    for what, worst in (("in a padded batch", apart[:, 0].max()), ("with kept keys and values", apart.max())):
        if not worst <= tolerance:
            raise ValueError(f"{type(backbone.model).__name__} computes other logits {what} than for a text on its own")
