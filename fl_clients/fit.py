"""The one local training loop: every method's clients train through it."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from configs.schema import FitConfig
from fl_clients.batches import IGNORED, Example, epoch_batches
from fl_clients.forward import Forward
from strategies.method import Adapter, FitResult


def fit(
    forward: Forward,
    adapter: Adapter,
    examples: Sequence[Example],
    settings: FitConfig,
    seed: int,
    span: tuple[float, float],
    parameters: Iterable[nn.Parameter],
    after_step: Callable[[], None],
) -> FitResult:
    """Train `parameters` by AdamW on a client's examples.

    Args:
        forward: The frozen backbone; its own parameters never change.
        adapter: Active on the prompts.
        examples: The client's; at least one.
        settings: Epochs, batch size, learning rate and so on.
        seed: Draws the order of examples.
        span: Where this training lies on the learning-rate schedule, as shares of it: round t of T is
            ((t−1)/T, t/T), a whole training of its own (0, 1).
        parameters: The adapter's parameters to train.
        after_step: Called after every optimiser step.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    trained = list(parameters)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)
    losses: list[float] = []
    try:
        for _ in range(settings.epochs):
            for chosen in epoch_batches(examples, settings.batch_size, generator):
                progress = span[0] + (span[1] - span[0]) * (len(losses) + 0.5) / steps
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * rate(progress, settings.warmup)
                loss = answer_loss(forward, adapter, chosen)
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}; try a lower lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, settings.clip)
                optimizer.step()
                after_step()
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None
    return FitResult(len(examples), len(losses), losses[0], losses[-1])


def rate(progress: float, warmup: float) -> float:
    """Return the learning rate at `progress` ∈ [0, 1] of the schedule, as a share of its peak."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def answer_loss(forward: Forward, adapter: Adapter, examples: Sequence[Example]) -> torch.Tensor:
    """Return the mean cross-entropy over the examples' answer tokens, in nats.

    Logits are computed only for the positions that predict an answer token: the last a+1 of the padded row.
    """
    passed = forward.run(adapter, examples, logits_to_keep=max(len(example.answer) for example in examples) + 1)
    logits = passed.logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), passed.batch.labels.flatten(), ignore_index=IGNORED)
