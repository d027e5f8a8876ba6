"""The local training loop that all methods share."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from configs.schema import FitConfig
from fl_clients.backbone.batches import IGNORED, Example, epoch_batches
from fl_clients.backbone.forward import Forward
from strategies.method import Adapter, FitResult


@dataclass(frozen=True)
class LocalFit:
    """One client's local training with AdamW, ready to be passed to a method."""

    forward: Forward
    """The frozen backbone; its parameters never change."""
    adapter: Adapter
    """Active on the prompts."""
    examples: Sequence[Example]
    """The client's examples; at least one."""
    settings: FitConfig
    """Epochs, batch size, learning rate and so on."""
    seed: int
    """Seeds the order of examples and dropout."""
    span: tuple[float, float] = (0.0, 1.0)
    """The part of the learning-rate schedule that this training covers, as fractions: ((t−1)/T, t/T) in round t of T,
    (0, 1) for the whole schedule."""

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        after_step: Callable[[], None] = lambda: None,
        rates: Sequence[float] | None = None,
        /,
    ) -> FitResult:
        """Train the adapter's `parameters` in place (see `strategies.method.Fit`).

        Raises:
            FloatingPointError: The loss is not finite.
        """
        trained = list(parameters)
        groups = _groups(trained, rates)
        for parameter in trained:
            parameter.requires_grad_(True)
        # Dropout draws from the global generator; seeding it here makes it independent of other clients.
        torch.manual_seed(self.seed)
        self.adapter.train(True)
        try:
            losses = self._steps(trained, groups, after_step)
        finally:
            self.adapter.train(False)
            for parameter in trained:
                parameter.requires_grad_(False)
                parameter.grad = None
        return FitResult(len(self.examples), len(losses), losses[0], losses[-1])

    def _steps(
        self, trained: list[nn.Parameter], groups: list[dict[str, Any]], after_step: Callable[[], None]
    ) -> list[float]:
        settings = self.settings
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        begun = [parameter.detach().clone() for parameter in trained] if settings.proximal else []
        generator = torch.Generator().manual_seed(self.seed)
        steps = settings.epochs * math.ceil(len(self.examples) / settings.batch_size)
        losses: list[float] = []
        for _ in range(settings.epochs):
            for chosen in epoch_batches(self.examples, settings.batch_size, generator):
                done = (len(losses) + 0.5) / steps
                progress = self.span[0] + (self.span[1] - self.span[0]) * done
                height = rate(progress, settings.warmup) * min(1.0, done / (settings.visit_warmup or done))
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * group["rate"] * height
                loss = answer_loss(self.forward, self.adapter, chosen)
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}; try a lower lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for parameter, start in zip(trained, begun, strict=False):
                    if parameter.grad is not None:
                        parameter.grad += settings.proximal * (parameter.detach() - start)
                nn.utils.clip_grad_norm_(trained, settings.clip)
                optimizer.step()
                after_step()
        return losses

    @torch.no_grad()
    def loss(self, batches: int, /) -> float:
        """Return the mean loss over the first `batches` batches of the first epoch, without dropout."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = epoch_batches(self.examples, self.settings.batch_size, generator)[:batches]
        tokens = [sum(len(example.answer) for example in batch) for batch in chosen]
        losses = [float(answer_loss(self.forward, self.adapter, batch)) for batch in chosen]
        return sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)


def _groups(trained: list[nn.Parameter], rates: Sequence[float] | None) -> list[dict[str, Any]]:
    """Group parameters by their multiple of the learning rate, in their order."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, multiple in zip(trained, rates or [1.0] * len(trained), strict=True):
        groups.setdefault(multiple, []).append(parameter)
    return [{"params": parameters, "rate": multiple} for multiple, parameters in groups.items()]


def rate(progress: float, warmup: float) -> float:
    """Return the learning rate at `progress` ∈ [0, 1] of the schedule, as a fraction of its peak."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def answer_loss(forward: Forward, adapter: Adapter, examples: Sequence[Example]) -> torch.Tensor:
    """Return the mean cross-entropy over the examples' answer tokens, in nats.

    Logits are computed only for positions that predict an answer token: the last a+1 of a padded row, where a is the
    length of the longest answer.
    """
    output = forward.run(adapter, examples, logits_to_keep=max(len(example.answer) for example in examples) + 1)
    logits = output.logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), output.batch.labels.flatten(), ignore_index=IGNORED)
