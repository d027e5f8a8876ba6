"""Parameters with a value for each row of a batch, so that one pass takes a training step of several clients."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn

RowValues = Mapping[nn.Parameter, torch.Tensor]
"""[rows, *shape] by parameter."""
Dropout = Callable[[float, torch.Tensor], torch.Tensor]
"""Applies dropout with a probability to inputs."""


@contextmanager
def each_row(modules: Iterable[nn.Module], values: RowValues, dropout: Dropout | None = None) -> Iterator[None]:
    """Give parameters their values for each row of the batch, inside the context.

    Linear modules, which must have no bias, multiply each row of their input [rows, ..., n] by its own weight; if it
    has k times as many rows, k after one another belong to the same. Any other module finds the values in place of the
    parameter, and has to broadcast over them.

    Args:
        modules: Those whose own parameters may have values; the others keep theirs.
        values: By parameter.
        dropout: Stands in for dropout modules that are active; None: they stay as they are.
    """
    with ExitStack() as undo:
        for module in modules:
            if dropout and isinstance(module, nn.Dropout) and module.training:
                module.forward = partial(dropout, module.p)  # type: ignore[method-assign]
                undo.callback(delattr, module, "forward")
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter not in values:
                    continue
                if isinstance(module, nn.Linear):
                    module.forward = partial(_linear, values[parameter])  # type: ignore[method-assign]
                    undo.callback(delattr, module, "forward")
                else:
                    undo.enter_context(written(module, name, values[parameter]))
        yield


@contextmanager
def written(module: nn.Module, attribute: str, value: torch.Tensor) -> Iterator[None]:
    """Make a computed tensor stand in for a parameter inside the context."""
    parameters = dict(module._parameters)
    delattr(module, attribute)
    setattr(module, attribute, value)
    try:
        yield
    finally:
        delattr(module, attribute)
        # All of them, so that they keep their order.
        module._parameters.clear()
        module._parameters.update(parameters)


def _linear(weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return x_i W_iᵀ for every row i; inputs [rows, ..., n], weight [rows, m, n]."""
    if len(inputs) % len(weight):
        raise ValueError(f"a linear module got {len(inputs)} rows, and has weights for the {len(weight)} of the batch")
    if len(inputs) != len(weight):
        weight = weight.repeat_interleave(len(inputs) // len(weight), dim=0)
    flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    return (flat @ weight.mT).reshape(*inputs.shape[:-1], weight.shape[1])
