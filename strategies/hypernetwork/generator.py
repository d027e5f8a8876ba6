"""Ψ as a run uses it: its weights among the run's tensors, and the adapters that it writes from profiles."""

from typing import NamedTuple

import torch
from torch.func import functional_call

from strategies.hypernetwork.network import Hypernetwork, NetworkSize
from strategies.hypernetwork.outputs import Output, Shapes
from strategies.method import BackboneShape, Tensors

ADAPTER = "shared_adapter"
"""Prefix of an adapter that is sent."""
SHAPES = "server_shapes."
"""Prefix of the shapes that Ψ writes."""


class Built(NamedTuple):
    """Ψ for one backbone."""

    shapes: Shapes
    network: Hypernetwork


class Generator:
    """θ = Ψ(e), for a backbone that is known from its shape, or from the tensors that describe Ψ."""

    def __init__(self, output: Output, size: NetworkSize, seed: int, weights: str) -> None:
        """Take what Ψ writes, its size, the run's seed, and the prefix of its weights among the run's tensors."""
        self._output, self._size, self._seed, self._weights = output, size, seed, weights
        self._built: Built | None = None

    def build(self, backbone: BackboneShape, width: int) -> Built:
        """Build Ψ with its initial weights, for profiles of `width` numbers."""
        starts, shapes = self._output.starts(backbone, self._seed), self._output.shapes(backbone)
        network = Hypernetwork(width, len(self._output.depths(shapes)), starts, self._size, self._seed)
        self._built = Built(shapes, network.eval())
        return self._built

    def state(self, built: Built) -> Tensors:
        """Return Ψ's weights, and its shapes for a server, which does not know the backbone."""
        weights = {f"{self._weights}{name}": value.clone() for name, value in built.network.state_dict().items()}
        return weights | {f"{SHAPES}{name}": torch.tensor(shape).float() for name, shape in built.shapes.items()}

    def of(self, state: Tensors) -> Built:
        """Return Ψ as it was built, or as a run's tensors describe it."""
        if self._built is None:
            weights = {name.removeprefix(self._weights): value for name, value in state.items()}
            shapes = {
                name.removeprefix(SHAPES): tuple(map(int, shape.tolist()))
                for name, shape in state.items()
                if name.startswith(SHAPES)
            }
            starts = {kind: weights[f"biases.{number}"][0] for number, kind in enumerate(self._output.kinds())}
            width, depths = weights["profile.0.weight"].shape[1], len(self._output.depths(shapes))
            self._built = Built(shapes, Hypernetwork(width, depths, starts, self._size, self._seed).eval())
        return self._built

    def tensors(self, built: Built, weights: Tensors, read: torch.Tensor) -> Tensors:
        """Return an adapter as it is trained, with Ψ's weights by name, from what Ψ reads; differentiable."""
        rows: dict[str, torch.Tensor] = functional_call(built.network.eval(), weights, (read,))
        return self._output.tensors(rows, built.shapes)

    @torch.no_grad()
    def adapter(self, state: Tensors, read: torch.Tensor) -> Tensors:
        """Return an adapter as it is sent, with the run's weights, from what Ψ reads."""
        weights = {
            name.removeprefix(self._weights): value for name, value in state.items() if name.startswith(self._weights)
        }
        written = self._output.sent(self.tensors(self.of(state), weights, read))
        return {f"{ADAPTER}.{name}": value.contiguous() for name, value in written.items()}
