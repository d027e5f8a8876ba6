"""Runs examples through the backbone: all of it, or only the part that the adapter can change."""

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
    """The result of a forward pass over examples."""

    batch: Batch
    """The computed tokens: whole examples, or what follows their kept tokens."""
    mask: torch.Tensor
    """[batch, kept + computed] attention mask."""
    cache: DynamicCache | None
    logits: torch.Tensor
    """[batch, kept logits, vocabulary]"""
    states: list[FrozenStates]
    """One per example; empty without a frozen prefix."""


class Forward:
    """Runs examples through a backbone, starting from its frozen prefix if it has one."""

    def __init__(self, backbone: Backbone, prefix: FrozenPrefix | None) -> None:
        """Bind to a backbone and its frozen prefix; None computes every block."""
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
            logits_to_keep: Number of last positions to return logits for.
            with_cache: Also return keys and values, for a continuation.
            labels: As in `FrozenPrefix.states`, for `continue_with_labels`.
        """
        prefix, device = self._prefix, self.backbone.device
        states = [prefix.states(example.prompt, example.answer, labels) for example in examples] if prefix else []
        starts = _starts(examples, states)
        ends = [
            Example(example.prompt[start:], example.answer) for example, start in zip(examples, starts, strict=True)
        ]
        batch = collate(ends, self._pad, device)
        before, length = max(starts), batch.input_ids.shape[1]
        kept = torch.tensor(starts, device=device)[:, None]
        mask = torch.cat([(torch.arange(before, device=device) >= before - kept).long(), batch.attention_mask], dim=1)
        batch = replace(batch, position_ids=batch.position_ids + kept)
        cache = self._kept_cache(states, starts) if before else DynamicCache() if with_cache else None
        with (
            adapter.active(batch.prompt) if adapter else nullcontext(),
            prefix.resumed(self._place(states, length)) if prefix else nullcontext(),
        ):
            logits = self.backbone.run(
                cache,
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=batch.position_ids,
                # With a number instead of places, Gemma 4 would also shorten what its last blocks get.
                logits_to_keep=torch.arange(max(0, length - logits_to_keep), length, device=device),
                use_cache=cache is not None,
            ).logits[:, -logits_to_keep:]  # some families return all
        if prefix and cache is not None:
            # The frozen blocks did not run, so their placeholders have not grown.
            placeholders = [self._placeholder(len(states), mask.shape[1])] * prefix.frozen_blocks
            cache = given_cache(placeholders + key_values(cache)[prefix.frozen_blocks :])
        return ForwardOutput(batch, mask, cache, logits, states)

    def continue_with_labels(
        self, adapter: Adapter | None, output: ForwardOutput, labels: Sequence[list[int]]
    ) -> torch.Tensor:
        """Return log p(label without its first token | prompt, first token); shape [examples, labels], nats.

        Args:
            adapter: As given to `run`.
            output: The output of `run` over questions, with a cache and the same labels.
            labels: In tokens, at least two each.
        """
        assert output.cache is not None
        rows, device = len(output.mask), self.backbone.device
        inputs, targets, real = (tensor.repeat(rows, 1).to(device) for tensor in label_inputs(labels))
        mask = output.mask.repeat_interleave(len(labels), dim=0)
        first = output.batch.position_ids[:, -1:].repeat_interleave(len(labels), dim=0) + 1
        output.cache.batch_repeat_interleave(len(labels))
        hidden = torch.cat([_known(state.labels) for state in output.states]) if output.states else None
        with (
            continuing(adapter, inputs),
            self._prefix.resumed(hidden.to(device)) if self._prefix and hidden is not None else nullcontext(),
        ):
            logits = self.backbone.run(
                output.cache,
                input_ids=inputs,
                attention_mask=torch.cat([mask, real], dim=1),
                position_ids=first + torch.arange(inputs.shape[1], device=device),
            ).logits
        chosen = log_softmax(logits.float(), dim=-1).gather(2, targets[..., None])[..., 0]
        return (chosen * real).sum(dim=1).view(rows, len(labels))

    def _place(self, states: Sequence[FrozenStates], length: int) -> torch.Tensor:
        """Arrange hidden states like the batch's tokens, right-aligned, [batch, length, d]."""
        hidden = torch.zeros(len(states), length, states[0].hidden.shape[-1], dtype=states[0].hidden.dtype)
        for row, state in enumerate(states):
            last = state.hidden[-length:]
            hidden[row, length - len(last) :] = last
        return hidden.to(self.backbone.device)

    def _kept_cache(self, states: Sequence[FrozenStates], starts: Sequence[int]) -> DynamicCache:
        """Put kept keys and values before the batch's tokens, right-aligned in every row."""
        assert self._prefix is not None
        length = max(starts)
        blocks, heads, _, size = _known(states[starts.index(length)].keys).shape
        kept = torch.zeros(2, blocks, len(states), heads, length, size, dtype=states[0].hidden.dtype)
        for row, (state, start) in enumerate(zip(states, starts, strict=True)):
            if start:
                kept[0, :, row, :, length - start :] = _known(state.keys)[:, :, :start]
                kept[1, :, row, :, length - start :] = _known(state.values)[:, :, :start]
        keys, values = kept.to(self.backbone.device)
        placeholders = [self._placeholder(len(states), length)] * self._prefix.frozen_blocks
        return given_cache([*placeholders, *zip(keys, values, strict=True)])

    def _placeholder(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stand in for a frozen block's keys and values: they only set the mask's size and are never attended to."""
        nothing = torch.zeros(rows, 1, length, 1, device=self.backbone.device)
        return nothing, nothing


def continuing(adapter: Adapter | None, input_ids: torch.Tensor) -> AbstractContextManager[None]:
    """Activate an adapter for a pass that continues after prompts, so that none of its tokens is a prompt token."""
    return adapter.active(torch.zeros_like(input_ids, dtype=torch.bool)) if adapter else nullcontext()


def _known(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor


def _starts(examples: Sequence[Example], states: Sequence[FrozenStates]) -> list[int]:
    """Return the first computed token of each example, so that all end together without padding after kept tokens.

    A row shorter than the longest computes some of its untouched tokens again instead of padding, because sliding
    windows count slots of the cache, not positions.
    """
    if not states:
        return [0] * len(examples)
    longest = max(len(example) - state.untouched for example, state in zip(examples, states, strict=True))
    return [max(0, len(example) - longest) for example in examples]
