"""The plain baseline: a straightforward implementation that caches, shares and skips nothing.

It has hooks on the whole Hugging Face model, logits at every position, and a whole forward pass for every label of
every question. The shifts and positions are fedperfit's, so that the results can be compared.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch.nn.functional import cross_entropy, log_softmax

from fl_clients.backbone.batches import Example
from fl_clients.backbone.load import Backbone
from strategies.method import Adapter


def loss(backbone: Backbone, adapter: Adapter, examples: Sequence[Example]) -> torch.Tensor:
    """Return the mean cross-entropy over answer tokens, in nats, of right-padded examples."""
    length = max(len(example) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask, prompt = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), len(example)
        ids[row, :end] = torch.tensor(example.prompt + example.answer)
        mask[row, :end] = 1
        prompt[row, :start] = True
        labels[row, start:end] = torch.tensor(example.answer)
    with adapter.active(prompt):
        logits = backbone.model(input_ids=ids, attention_mask=mask).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


@torch.no_grad()
def score_labels(
    backbone: Backbone, adapter: Adapter | None, prompts: Sequence[list[int]], labels: Sequence[list[int]]
) -> torch.Tensor:
    """Return log p(label | prompt), shape [prompts, labels], with one forward pass per entry."""
    scores = torch.zeros(len(prompts), len(labels))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            ids = torch.tensor([prompt + label])
            with adapter.active(torch.arange(ids.shape[1])[None] < len(prompt)) if adapter else nullcontext():
                logits = backbone.model(input_ids=ids).logits
            answer = log_softmax(logits[0, len(prompt) - 1 : -1].float(), dim=-1)
            scores[row, column] = answer.gather(1, torch.tensor(label)[:, None]).sum()
    return scores
