"""How examples go through the backbone: all of it, or only what the adapter can have changed."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import log_softmax
from transformers import DynamicCache

from fl_clients.backbone.batches import Batch, Example, collate
from fl_clients.backbone.frozen_prefix import FrozenPrefix, FrozenStates, given_cache, key_values, label_inputs
from fl_clients.backbone.load import Backbone
from strategies.method import Adapter


@dataclass(frozen=True)
class ForwardOutput:
    """What a forward pass over examples gives."""

    batch: Batch
    """The tokens that were computed: whole examples, or their ends after what is kept."""
    mask: torch.Tensor
    """[batch, kept + computed] attention mask."""
    cache: DynamicCache | None
    logits: torch.Tensor
    """[batch, kept logits, vocabulary]"""
    states: list[FrozenStates]
    """Of each example; empty without a prefix."""


class Forward:
    """Runs examples through a backbone, from its prefix where there is one."""

    def __init__(self, backbone: Backbone, prefix: FrozenPrefix | None) -> None:
        """Take the backbone and what is kept of it; None computes every block."""
        self.backbone = backbone
        self._prefix = prefix
        self._pad = int(backbone.tokenizer.pad_token_id or 0)

    def run(
        self,
        adapter: Adapter | None,
        examples: Sequence[Example],
        logits_to_keep: int,
        with_cache: bool = False,
        labels: Sequence[list[int]] = (),
    ) -> ForwardOutput:
        """Run examples.

        Args:
            adapter: Active on the prompts; None runs the bare backbone.
            examples: At least one.
            logits_to_keep: For so many last positions.
            with_cache: Return keys and values, for a continuation.
            labels: As in `FrozenPrefix.states`, for `continue_with_labels`.
        """
        prefix, device = self._prefix, self.backbone.device
        states = [prefix.states(each.prompt, each.answer, labels) for each in examples] if prefix else []
        starts = _starts(examples, states)
        ends = [Example(each.prompt[start:], each.answer) for each, start in zip(examples, starts, strict=True)]
        batch = collate(ends, self._pad, device)
        before = max(starts)
        kept = torch.tensor(starts, device=device)[:, None]
        mask = torch.cat([(torch.arange(before, device=device) >= before - kept).long(), batch.attention_mask], dim=1)
        batch = replace(batch, position_ids=batch.position_ids + kept)
        cache = self._kept_cache(states, starts) if before else DynamicCache() if with_cache else None
        with (
            adapter.active(batch.prompt) if adapter else nullcontext(),
            prefix.resumed(self._place(states, batch.input_ids.shape[1])) if prefix else nullcontext(),
        ):
            logits = self.backbone.model(
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=batch.position_ids,
                past_key_values=cache,
                logits_to_keep=logits_to_keep,
                use_cache=cache is not None,
            ).logits
        if prefix and cache is not None:
            # The frozen blocks did not run, so their stand-ins have not grown.
            stand_ins = [self._place_holder(len(states), mask.shape[1])] * prefix.frozen_blocks
            cache = given_cache(stand_ins + key_values(cache)[prefix.frozen_blocks :])
        return ForwardOutput(batch, mask, cache, logits, states)

    def continue_with_labels(
        self, adapter: Adapter | None, passed: ForwardOutput, labels: Sequence[list[int]]
    ) -> torch.Tensor:
        """Return log p(label without its first token | prompt, first token); shape [examples, labels], nats.

        Args:
            adapter: As given to `run`.
            passed: From `run` over questions, with cache and the same labels.
            labels: In tokens, each of at least two.
        """
        assert passed.cache is not None
        rows, device = len(passed.mask), self.backbone.device
        inputs, targets, real = (tensor.repeat(rows, 1).to(device) for tensor in label_inputs(labels))
        mask = passed.mask.repeat_interleave(len(labels), dim=0)
        first = passed.batch.position_ids[:, -1:].repeat_interleave(len(labels), dim=0) + 1
        passed.cache.batch_repeat_interleave(len(labels))
        hidden = torch.cat([_known(each.labels) for each in passed.states]) if passed.states else None
        with (
            continuing(adapter, inputs),
            self._prefix.resumed(hidden.to(device)) if self._prefix and hidden is not None else nullcontext(),
        ):
            logits = self.backbone.model(
                input_ids=inputs,
                attention_mask=torch.cat([mask, real], dim=1),
                position_ids=first + torch.arange(inputs.shape[1], device=device),
                past_key_values=passed.cache,
            ).logits
        chosen = log_softmax(logits.float(), dim=-1).gather(2, targets[..., None])[..., 0]
        return (chosen * real).sum(dim=1).view(rows, len(labels))

    def _place(self, states: Sequence[FrozenStates], length: int) -> torch.Tensor:
        """Lay hidden states out as the batch's tokens lie: at the right end, [batch, length, d]."""
        hidden = torch.zeros(len(states), length, states[0].hidden.shape[-1], dtype=states[0].hidden.dtype)
        for row, each in enumerate(states):
            own = each.hidden[-length:]
            hidden[row, length - len(own) :] = own
        return hidden.to(self.backbone.device)

    def _kept_cache(self, states: Sequence[FrozenStates], starts: Sequence[int]) -> DynamicCache:
        """Lay kept keys and values out before the batch's tokens, each row's at the right end."""
        assert self._prefix is not None
        length = max(starts)
        blocks, heads, _, size = _known(states[starts.index(length)].keys).shape
        kept = torch.zeros(2, blocks, len(states), heads, length, size, dtype=states[0].hidden.dtype)
        for row, (each, start) in enumerate(zip(states, starts, strict=True)):
            if start:
                kept[0, :, row, :, length - start :] = _known(each.keys)[:, :, :start]
                kept[1, :, row, :, length - start :] = _known(each.values)[:, :, :start]
        keys, values = kept.to(self.backbone.device)
        stand_ins = [self._place_holder(len(states), length)] * self._prefix.frozen_blocks
        return given_cache([*stand_ins, *zip(keys, values, strict=True)])

    def _place_holder(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stand in for a frozen block's keys and values: masks are sized by the first block's, nobody attends to it."""
        nothing = torch.zeros(rows, 1, length, 1, device=self.backbone.device)
        return nothing, nothing


def continuing(adapter: Adapter | None, input_ids: torch.Tensor) -> AbstractContextManager[None]:
    """Let an adapter act on a pass that goes on after prompts: none of its tokens is one of theirs."""
    return adapter.active(torch.zeros_like(input_ids, dtype=torch.bool)) if adapter else nullcontext()


def _known(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor


def _starts(examples: Sequence[Example], states: Sequence[FrozenStates]) -> list[int]:
    """Where each example's computed tokens begin, so that all end together and nothing lies between kept and computed.

    A row shorter than the longest computes some of its untouched tokens again, in the place of padding: sliding windows
    count places, not positions.
    """
    if not states:
        return [0] * len(examples)
    longest = max(len(each) - state.untouched for each, state in zip(examples, states, strict=True))
    return [max(0, len(each) - longest) for each in examples]
