"""Predictions on held-out queries: label likelihoods for classification, decoding for generation."""

from collections.abc import Sequence

import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedTokenizerBase

from fl_clients.backbone.batches import Example
from fl_clients.backbone.forward import Forward, continuing
from strategies.method import Adapter

_TEMPERATURE, _TOP_K, _TOP_P = 0.1, 10, 0.9  # PerFit, appendix D.5.2


@torch.no_grad()
def score_labels(
    forward: Forward, adapter: Adapter | None, prompts: Sequence[list[int]], labels: Sequence[list[int]]
) -> torch.Tensor:
    """Return log p(the answer begins with the label | prompt); shape [prompts, labels], nats.

    All labels share the keys and values of their prompt; a label of one token needs no further computation.

    Args:
        forward: The frozen model.
        adapter: None scores with the bare backbone.
        prompts: In tokens.
        labels: In tokens; none may be a prefix of another.
    """
    longer = [number for number, label in enumerate(labels) if len(label) > 1]
    questions = [Example(prompt, []) for prompt in prompts]
    continued = [labels[number] for number in longer]
    output = forward.run(adapter, questions, 1, with_cache=bool(longer), labels=continued)
    scores = log_softmax(output.logits[:, -1].float(), dim=-1)[:, [label[0] for label in labels]]
    if longer:
        scores[:, longer] += forward.continue_with_labels(adapter, output, continued)
    return scores


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer: the end token, and all with a line break, since answers are one line."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    breaks = {token for token, text in enumerate(texts) if "\n" in text}
    return frozenset(breaks | {int(tokenizer.eos_token_id)})


def generate(
    forward: Forward,
    adapter: Adapter | None,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop: frozenset[int],
    seeds: Sequence[int] | None,
) -> list[str]:
    """Continue each prompt as `generate_tokens` does; return texts without spaces at their ends."""
    answers = generate_tokens(forward, adapter, prompts, max_new_tokens, stop, seeds)
    return [str(forward.backbone.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]


@torch.no_grad()
def generate_tokens(
    forward: Forward,
    adapter: Adapter | None,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop: frozenset[int],
    seeds: Sequence[int] | None,
) -> list[list[int]]:
    """Continue each prompt until a stop token or `max_new_tokens`.

    Args:
        forward: The frozen model, without a frozen prefix, because new tokens pass through every block.
        adapter: None uses the bare backbone.
        prompts: In tokens.
        max_new_tokens: Upper bound for one answer.
        stop: Tokens that end an answer and are not part of it.
        seeds: One per prompt, to sample at temperature 0.1, top-k 10, top-p 0.9; None decodes greedily.
    """
    backbone = forward.backbone
    output = forward.run(adapter, [Example(prompt, []) for prompt in prompts], 1, with_cache=True)
    cache, last = output.cache, output.logits[:, -1]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds] if seeds is not None else None
    mask, position = output.mask, output.mask.sum(dim=1, keepdim=True)
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = torch.ones(len(prompts), dtype=torch.bool)
    for left in reversed(range(max_new_tokens)):
        chosen = _sample(last, generators) if generators is not None else last.argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            if open_rows[row]:
                if token in stop:
                    open_rows[row] = False
                else:
                    answers[row].append(token)
        if not left or not open_rows.any():
            break
        mask = torch.cat([mask, torch.ones_like(position)], dim=1)
        with continuing(adapter, chosen[:, None]):
            last = backbone.run(cache, input_ids=chosen[:, None], attention_mask=mask, position_ids=position).logits[
                :, -1
            ]
        position = position + 1
    return answers


def _sample(logits: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    values, tokens = (logits.float().cpu() / _TEMPERATURE).topk(min(_TOP_K, logits.shape[-1]), dim=-1)
    probabilities = values.softmax(dim=-1)
    # Top-p keeps the smallest set that reaches p: a token stays while the mass before it is below p.
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = torch.where(before < _TOP_P, probabilities, 0.0)
    picks = [
        torch.multinomial(row, 1, generator=generator) for row, generator in zip(probabilities, generators, strict=True)
    ]
    return tokens.gather(1, torch.stack(picks))[:, 0].to(logits.device)
