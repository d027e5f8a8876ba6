"""The local training loop that all methods share."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from configs.training import FitConfig
from fl_clients.backbone.batches import IGNORED, Example, epoch_batches
from fl_clients.backbone.forward import Forward
from strategies.client_tools import ClientTools
from strategies.method import Adapter, FitResult, Tensors

MOMENTS = "private_moments."
"""Prefix of the optimiser's state in the client's store."""


@dataclass(frozen=True)
class LocalFit:
    """One client's local training with AdamW, ready to be passed to a method."""

    forward: Forward
    """The frozen backbone; its parameters never change."""
    adapter: Adapter
    """Active on the prompts."""
    examples: Sequence[Any]
    """The client's examples, without which nothing is trained. What `loss` takes; each has a length and an `answer`, in
    tokens."""
    settings: FitConfig
    """Epochs, batch size, learning rate and so on."""
    seed: int
    """Seeds the order of examples and dropout."""
    span: tuple[float, float] = (0.0, 1.0)
    """The part of the learning-rate schedule that this training covers, as fractions: ((t−1)/T, t/T) in round t of T,
    (0, 1) for the whole schedule."""
    moments: Tensors = field(default_factory=dict)
    """AdamW's second moments at the end of the client's last training (`private_moments.*`), empty at first; with
    `keep_moments` replaced by those at the end of this one. The first moments begin anew: their direction is old."""

    tools: ClientTools | None = None
    """The user's texts and the bare backbone, for methods that ask for them."""
    budget_s: float = 0.0
    """Seconds after which training stops; 0: no limit."""
    clock: Callable[[], float] = time.perf_counter
    """What they are counted by."""
    loss_of: Callable[[Forward, Adapter, Sequence[Any]], torch.Tensor] | None = None
    """The loss of a batch of examples; None: `answer_loss`."""
    gradient: "Gradient | None" = None
    """None: `own_gradient`."""

    @property
    def client(self) -> ClientTools:
        """The user's texts and the bare backbone."""
        assert self.tools is not None
        return self.tools

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
        if not self.examples:
            return FitResult(0, 0)
        trained = list(parameters)
        optimizer = self._optimizer(_groups(trained, rates))
        for parameter in trained:
            parameter.requires_grad_(True)
        # Dropout draws from the global generator; seeding it here makes it independent of other clients.
        _seed(self.seed)
        self.adapter.train(True)
        try:
            losses = self._steps(trained, optimizer, after_step)
        finally:
            self.adapter.train(False)
            for parameter in trained:
                parameter.requires_grad_(False)
                parameter.grad = None
        return FitResult(len(self.examples), len(losses), losses[0], losses[-1])

    def _steps(
        self, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer, after_step: Callable[[], None]
    ) -> list[float]:
        settings = self.settings
        begun = [parameter.detach().clone() for parameter in trained] if settings.proximal else []
        generator = torch.Generator().manual_seed(self.seed)
        examples, held_out = _hold_out(self.examples, settings.held_out, generator)
        best = _Best(trained, self._held_out_loss(held_out)) if held_out else None
        steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)
        losses: list[float] = []
        end = self.clock() + (self.budget_s or math.inf)
        for _ in range(settings.epochs):
            for chosen in epoch_batches(examples, settings.batch_size, generator):
                if spent := bool(losses) and self.clock() > end:
                    break
                done = (len(losses) + 0.5) / steps
                progress = self.span[0] + (self.span[1] - self.span[0]) * done
                height = rate(progress, settings.warmup) * min(1.0, done / (settings.visit_warmup or done))
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * group["rate"] * height
                optimizer.zero_grad(set_to_none=True)
                losses.append((self.gradient or LocalFit.own_gradient)(self, chosen, trained))
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}; try a lower lr")
                for parameter, start in zip(trained, begun, strict=False):
                    if parameter.grad is not None:
                        parameter.grad += settings.proximal * (parameter.detach() - start)
                nn.utils.clip_grad_norm_(trained, settings.clip)
                optimizer.step()
                after_step()
            if best:
                best.see(self._held_out_loss(held_out))
            if spent:
                break
        if best:
            best.restore()
        if settings.keep_moments:
            self.moments.update(_moments(optimizer))
        return losses

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimizer == "sgd":
            momentum, decay = settings.momentum, settings.weight_decay
            return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, weight_decay=decay)
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        for number, parameter in enumerate(_parameters(optimizer) if self.moments else ()):
            optimizer.state[parameter] = {
                "step": self.moments[f"{MOMENTS}{number}.step"].clone(),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": self.moments[f"{MOMENTS}{number}.square"].to(parameter.device, copy=True),
            }
        return optimizer

    @torch.no_grad()
    def loss(self, batches: int, /) -> float:
        """Return the mean loss over the first `batches` batches of a shuffled epoch, without dropout.

        They are those of the first epoch, unless examples are held out. There must be an example.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return self._mean_loss(epoch_batches(self.examples, self.settings.batch_size, generator)[:batches])

    def own_gradient(self, batch: Sequence[Any], _trained: list[nn.Parameter]) -> float:
        """Set the parameters' `grad` to the gradient of a batch's mean loss; return the loss."""
        loss = self._loss(batch)
        loss.backward()
        return float(loss.detach())

    def _loss(self, batch: Sequence[Any]) -> torch.Tensor:
        return (self.loss_of or answer_loss)(self.forward, self.adapter, batch)

    def _held_out_loss(self, batches: Sequence[Sequence[Example]]) -> float:
        """Return the mean loss in the middle of a training, without dropout."""
        self.adapter.train(False)
        loss = self._mean_loss(batches)
        self.adapter.train(True)
        return loss

    @torch.no_grad()
    def _mean_loss(self, batches: Sequence[Sequence[Example]]) -> float:
        # An answer's loss is a mean over tokens, another one a mean over examples.
        weights = [len(batch) if self.loss_of else sum(len(example.answer) for example in batch) for batch in batches]
        losses = [float(self._loss(batch)) for batch in batches]
        return sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)


Gradient = Callable[[LocalFit, Sequence[Any], list[nn.Parameter]], float]
"""Sets the `grad` of trained parameters, which is None before, to the gradient of a batch's loss; returns the loss."""


class _Best:
    """The parameters with the lowest loss on held-out examples so far."""

    def __init__(self, parameters: list[nn.Parameter], loss: float) -> None:
        self._parameters, self._loss = parameters, loss
        self._copy()

    def see(self, loss: float) -> None:
        if loss < self._loss:
            self._loss = loss
            self._copy()

    def restore(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters, self._values, strict=True):
                parameter.copy_(value)

    def _copy(self) -> None:
        self._values = [parameter.detach().clone() for parameter in self._parameters]


def _hold_out(
    examples: Sequence[Example], share: float, generator: torch.Generator
) -> tuple[Sequence[Example], list[Sequence[Example]]]:
    """Split off a share of the examples, at least one and never all, each a batch of its own."""
    if not share or len(examples) < 2:
        return examples, []
    order = torch.randperm(len(examples), generator=generator).tolist()
    count = min(max(1, round(share * len(examples))), len(examples) - 1)
    return [examples[i] for i in sorted(order[count:])], [[examples[i]] for i in order[:count]]


def _seed(seed: int) -> None:
    """Seed the global generators as `torch.manual_seed` does, which formats three tracebacks where there is no GPU."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return AdamW's second moments and step counts, by the parameters' order."""
    kept: Tensors = {}
    for number, parameter in enumerate(_parameters(optimizer)):
        if state := optimizer.state.get(parameter):
            kept[f"{MOMENTS}{number}.step"] = state["step"].cpu()
            kept[f"{MOMENTS}{number}.square"] = state["exp_avg_sq"].cpu()
    return kept


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
    """Return the mean cross-entropy over the examples' answer tokens, in nats."""
    logits, labels = answer_logits(forward, adapter, examples)
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def answer_logits(forward: Forward, adapter: Adapter, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [batch, a, vocabulary] and labels [batch, a] where an answer token is predicted.

    These are the last a positions of a padded row, where a is the length of the longest answer; other logits are not
    computed.
    """
    output = forward.run(adapter, examples, logits_to_keep=max(len(example.answer) for example in examples) + 1)
    return output.logits[:, :-1].float(), output.batch.labels
