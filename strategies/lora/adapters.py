"""Low-rank adapters on linear modules, using `peft`; several adapters on one module add up."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import linear

from strategies.blocks import find_blocks, name_of_blocks
from strategies.method import Tensors


@dataclass(frozen=True)
class Lora:
    """One adapter: on every adapted weight, ΔW = (α/r)·BA with A ∈ ℝ^{r×n}, B ∈ ℝ^{m×r}."""

    rank: int
    """r."""
    alpha: int
    """α."""
    dropout: float
    """Dropout rate of the adapter's inputs in training."""
    modules: tuple[str, ...]
    """Names of the adapted linear modules, as the model has them."""


class LoraAdapters:
    """Named adapters on a frozen model; those chosen by `use` act together, inside `active`, on every token.

    `add_to_base` also changes the base weights inside `active`, for methods that merge what they averaged.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, Lora], frozen_blocks: int) -> None:
        """Attach the adapters to `model`, inactive.

        Args:
            model: A frozen model; peft wraps its adapted linear modules.
            adapters: Adapters by name.
            frozen_blocks: Number of first blocks that no adapter touches.
        """
        self.frozen_blocks = frozen_blocks
        self.suffix: int | None = None  # any token may be touched
        blocks, prefix = find_blocks(model), f"{name_of_blocks(model)}."
        for name, lora in adapters.items():
            inside = [module.removeprefix(prefix) for module in lora.modules]
            config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=inside)
            with warnings.catch_warnings():
                # peft warns about a second adapter on one model, and reads a deprecated attribute of transformers.
                warnings.simplefilter("ignore")
                # Given the whole model, peft would take a module named like a fused expert's (`gate_proj`) for one.
                inject_adapter_in_model(config, blocks, name)
        self._layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        self._modules_of = {name: lora.modules for name, lora in adapters.items()}
        self.row_modules: list[nn.Module] = [
            self.factor(name, module, letter)
            for name in adapters
            for module in self._modules_of[name]
            for letter in "AB"
        ]
        self.row_modules += [dropout for layer in self._layers.values() for dropout in layer.lora_dropout.values()]
        self._changes: dict[str, torch.Tensor] = {}
        self._merged: dict[str, nn.Parameter] = {}
        self._used: tuple[str, ...] = ()
        for parameter in self.trainable(*adapters):
            # peft creates them in the model's number format; adapters are always fp32.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(False)
        self.use()
        self._enable(False)
        self.train(False)

    def trainable(self, *names: str, letters: str = "AB") -> list[nn.Parameter]:
        """Return the parameters of adapters; `letters` selects A, B or both."""
        return [
            self.factor(name, module, letter).weight
            for name in names
            for module in self._modules_of[name]
            for letter in letters
        ]

    def factor(self, name: str, module: str, letter: str) -> Any:
        """Return the linear module that is an adapter's A or B at one of its modules."""
        layer = self._layers[module]
        return (layer.lora_A if letter == "A" else layer.lora_B)[name]

    def base_weight(self, module: str) -> torch.Tensor:
        """Return the frozen weight of an adapted module, [m, n]."""
        layer = self._layers[module].get_base_layer()
        weight: torch.Tensor = layer.weight
        # transformers' Conv1D stores its weight as n×m.
        return weight if isinstance(layer, nn.Linear) else weight.T

    @torch.no_grad()
    def load(self, name: str, tensors: Tensors, prefix: str, letters: str = "AB") -> None:
        """Copy `<prefix>.<module>.A` [r, n] and `.B` [m, r] into an adapter."""
        for module in self._modules_of[name]:
            for letter in letters:
                self.factor(name, module, letter).weight.copy_(tensors[f"{prefix}.{module}.{letter}"])

    def state(self, name: str, prefix: str, letters: str = "AB") -> Tensors:
        """Return an adapter's factors, named as in `load`."""
        return {
            f"{prefix}.{module}.{letter}": self.factor(name, module, letter).weight.detach().cpu().clone()
            for module in self._modules_of[name]
            for letter in letters
        }

    def use(self, *names: str) -> None:
        """Choose the adapters that act inside `active`."""
        self._used = names
        for layer in self._layers.values():
            # peft's setter would also change which parameters are trained.
            layer._active_adapter = list(names)

    @property
    def acting(self) -> tuple[str, ...] | None:
        """The adapters that act inside `active`; None if the base weights are changed too."""
        return None if self._changes else self._used

    @acting.setter
    def acting(self, names: tuple[str, ...]) -> None:
        self._changes, self._merged = {}, {}
        if names != self._used:
            self.use(*names)

    @torch.no_grad()
    def effective(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return all active changes as one product per module: ΔW = BA, A [R, n], B [m, R], with every α/r inside B.

        Adapters on one module are stacked, so their ranks add up. A change of the base weights is one factor, of rank
        min(m, n); the other is an identity.
        """
        parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for name in self._used:
            for module in self._modules_of[name]:
                A, B = (self.factor(name, module, letter).weight.detach().cpu() for letter in "AB")
                parts.setdefault(module, []).append((A, self._layers[module].scaling[name] * B))
        for module, change in self._changes.items():
            outputs, inputs = change.shape
            change = change.cpu()
            pair = (torch.eye(inputs), change) if inputs <= outputs else (change, torch.eye(outputs))
            parts.setdefault(module, []).append(pair)
        return {
            module: (torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1))
            for module, pairs in parts.items()
        }

    @torch.no_grad()
    def add_to_base(self, changes: Mapping[str, torch.Tensor]) -> None:
        """Make the adapted modules' base weights W + change inside `active`, [m, n] each; {} removes all changes."""
        self._changes = {}
        self._merged = {}
        for module, change in changes.items():
            layer = self._layers[module].get_base_layer()
            self._changes[module] = change = change.float().to(layer.weight.device)
            if layer.weight.dtype == torch.float32:
                # transformers' Conv1D stores its weight as n×m.
                oriented = change if isinstance(layer, nn.Linear) else change.T
                self._merged[module] = nn.Parameter(layer.weight + oriented, requires_grad=False)

    @contextmanager
    def active(self, _prompt: torch.Tensor) -> Iterator[None]:
        """Make the chosen adapters act on all tokens inside the context."""
        with ExitStack() as undo:
            for module, change in self._changes.items():
                layer = self._layers[module].get_base_layer()
                if module in self._merged:
                    undo.callback(setattr, layer, "weight", layer.weight)
                    layer.weight = self._merged[module]
                else:
                    # A bf16 weight would lose a small change to rounding.
                    undo.callback(layer.register_forward_hook(partial(_add_product, change)).remove)
            self._enable(True)
            undo.callback(self._enable, False)
            yield

    def train(self, mode: bool = True) -> None:
        """Turn dropout on for trained adapters, or off for all; a fixed adapter acts in training as in serving."""
        for layer in self._layers.values():
            for name, dropout in layer.lora_dropout.items():
                factors = (layer.lora_A[name].weight, layer.lora_B[name].weight)
                dropout.train(mode and any(factor.requires_grad for factor in factors))

    def _enable(self, enabled: bool) -> None:
        for layer in self._layers.values():
            # peft's `enable_adapters` would also turn on the gradients of every adapter.
            layer._disable_adapters = not enabled


def _add_product(
    change: torch.Tensor, _layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
) -> Any:
    return output + linear(inputs[0].float(), change).to(output.dtype)


def find_modules(linears: Iterable[str], targets: Sequence[str]) -> tuple[str, ...]:
    """Return the linear modules whose name ends with one of `targets`, in the model's order.

    Raises:
        ValueError: No module matches a target.
    """
    linears = list(linears)
    for target in targets:
        if not any(name.endswith(f".{target}") for name in linears):
            known = sorted({name.rpartition(".")[2] for name in linears})
            raise ValueError(f"no module '{target}' in the backbone (its linear modules: {', '.join(known)})")
    return tuple(name for name in linears if any(name.endswith(f".{target}") for target in targets))
