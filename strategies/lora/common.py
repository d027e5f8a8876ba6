"""What the methods built on LoRA share: settings, initial factors, and plain local training.

LoRA (Hu et al., ICLR 2022) as implemented in `peft`. An adapter's factors are named `<prefix>.<module>.A` and `.B`; in
messages the prefix is `shared_lora`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies.lora.adapters import Lora, LoraAdapters, find_modules
from strategies.method import BackboneShape, Fit, FitResult, Tensors, TrainRequest, TrainResult
from strategies.spacing import read_sites

COLLECTIVE, PERSONAL = "collective", "personal"
SHARED, KEPT, PRIVATE = "shared_lora", "kept_lora", "private_lora"


@dataclass(frozen=True)
class LoraSettings:
    """The modules that adapters are attached to, and the adapters' size."""

    rank: int
    """r."""
    alpha: int
    """α; ΔW is scaled by α/r."""
    dropout: float
    """Dropout rate of the adapter's inputs in training."""
    targets: tuple[str, ...]
    """Suffixes of the adapted modules' names, such as q_proj or self_attn.q_proj."""
    blocks: Sequence[int] | str
    """Adapted decoder blocks: a list or a spacing (`read_sites`); empty: all."""

    def on(self, backbone: BackboneShape) -> Lora:
        """Return the adapter for a backbone.

        Raises:
            ValueError: The settings do not fit the backbone.
        """
        if self.rank < 1:
            raise ValueError(f"settings.rank={self.rank}: expected at least 1")
        if self.alpha < 1:
            raise ValueError(f"settings.alpha={self.alpha}: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"settings.dropout={self.dropout}: expected at least 0 and below 1")
        if not self.targets:
            raise ValueError("settings.targets=[]: expected at least one module name")
        if len({*self.targets}) < len(self.targets):
            raise ValueError(f"settings.targets={list(self.targets)}: a module name is given twice")
        blocks = read_sites(self.blocks, backbone.blocks, "settings.blocks") if self.blocks else []
        for block in blocks:
            if not 0 <= block < backbone.blocks:
                last = backbone.blocks - 1
                raise ValueError(f"settings.blocks={blocks}: the backbone has blocks 0 to {last}")
        try:
            modules = find_modules(backbone.linears, self.targets)
        except ValueError as error:
            raise ValueError(f"settings.targets: {error}") from None
        chosen = tuple(name for name in modules if not blocks or block_of(name) in blocks)
        if not chosen:
            raise ValueError(f"settings.blocks={blocks}: no {', '.join(self.targets)} in these blocks")
        for name in chosen:
            if self.rank > (smaller := min(backbone.linears[name])):
                raise ValueError(f"settings.rank={self.rank}: the rank of {name} is at most {smaller}")
        return Lora(self.rank, self.alpha, self.dropout, chosen)


def block_of(module: str) -> int:
    """Return the number of the decoder block that a linear module is in, from its name."""
    return next(int(part) for part in module.split(".") if part.isdigit())


def attach(model: nn.Module, adapters: dict[str, Lora]) -> LoraAdapters:
    """Attach adapters to a model; the blocks below the lowest adapted one stay frozen."""
    return LoraAdapters(model, adapters, min(block_of(name) for lora in adapters.values() for name in lora.modules))


def start(lora: Lora, backbone: BackboneShape, prefix: str, seed: int, *names: str | int) -> Tensors:
    """Return LoRA's initial factors from a seed: A uniform within ±1/√n, as `peft` draws it, and B = 0.

    Args:
        lora: The adapter.
        backbone: Gives the modules' sizes.
        prefix: Prefix of the tensors' names.
        seed: The run's seed.
        names: The purpose of the initial factors, for the seed.
    """
    tensors: Tensors = {}
    for module in lora.modules:
        inputs, outputs = backbone.linears[module]
        tensors[f"{prefix}.{module}.A"] = first_a(lora.rank, inputs, seed, *names, module)
        tensors[f"{prefix}.{module}.B"] = torch.zeros(outputs, lora.rank)
    return tensors


def first_a(rank: int, inputs: int, seed: int, *names: str | int) -> torch.Tensor:
    """Return one module's A as `start` draws it, [rank, inputs]; the last of `names` is the module's name."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "start", *names))
    uniform = torch.rand(rank, inputs, generator=generator, dtype=torch.float64)
    return ((2 * uniform - 1) / math.sqrt(inputs)).float()


def parameters(lora: Lora, backbone: BackboneShape) -> int:
    """Return P = Σ r(m + n) over the adapted modules."""
    return sum(lora.rank * sum(backbone.linears[module]) for module in lora.modules)


def train_shared(adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
    """Run one round of stage 1 for a method that sends both A and B."""
    adapter.load(COLLECTIVE, request.shared, SHARED)
    adapter.use(COLLECTIVE)
    result = request.fit(adapter.trainable(COLLECTIVE))
    return TrainResult(adapter.state(COLLECTIVE, SHARED), result)


def train_personal(adapter: LoraAdapters, begin: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
    """Train the personal adapter from `begin`, together with any other active adapters."""
    adapter.load(PERSONAL, begin, PRIVATE)
    result = fit(adapter.trainable(PERSONAL))
    return adapter.state(PERSONAL, PRIVATE), result
