"""A backbone of two linear modules, and a fit that only adds 1."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from strategies.lora.adapters import LoraAdapters
from strategies.method import BackboneShape, FitResult, Tensors

Q, V = "layers.0.q_proj", "layers.1.v_proj"
SHAPE = BackboneShape(6, 2, 1000, {Q: (6, 5), V: (6, 3)})
SETTINGS = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "blocks": [], "seed": 0}


class Block(nn.Module):
    """A decoder block with one linear module."""

    def __init__(self, name: str, inputs: int, outputs: int) -> None:
        super().__init__()
        setattr(self, name, nn.Linear(inputs, outputs, bias=False))


class Model(nn.Module):
    """A model of two such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block("q_proj", 6, 5), Block("v_proj", 6, 3)])
        self.requires_grad_(False)


class AddOne:
    """A fit that records the model's weight changes and then adds 1 to its parameters."""

    def __init__(self, adapter: LoraAdapters | None = None, losses: Iterable[float] = ()) -> None:
        self.adapter = adapter
        self.losses = iter(losses)
        self.before: dict[str, torch.Tensor] = {}
        self.trained: list[int] = []

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        _after: Callable[[], None] = lambda: None,
        _rates: Sequence[float] | None = None,
        /,
    ) -> FitResult:
        self.before = products(self.adapter) if self.adapter else {}
        for parameter in parameters:
            parameter.data += 1
            self.trained.append(id(parameter))
        return FitResult(1, 1, 1.0, 1.0)

    def loss(self, _batches: int, /) -> float:
        return next(self.losses)


def products(adapter: LoraAdapters) -> dict[str, torch.Tensor]:
    """Return the difference of every module's weight from the backbone's."""
    return {module: B @ A for module, (A, B) in adapter.effective().items()}


def product(tensors: Tensors, prefix: str, module: str) -> torch.Tensor:
    """(α/r)BA, α/r = 2."""
    return 2 * tensors[f"{prefix}.{module}.B"] @ tensors[f"{prefix}.{module}.A"]


def some(like: Tensors, seed: int = 1) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in like.items()}


def attached(method: Any) -> tuple[LoraAdapters, AddOne]:
    adapter = method.client_attach(Model(), SHAPE)
    return adapter, AddOne(adapter)
