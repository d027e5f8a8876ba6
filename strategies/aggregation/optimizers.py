"""Steps of the server along a round's average change (Reddi et al., Adaptive Federated Optimization, 2003.00295)."""

from dataclasses import dataclass
from typing import Literal

import torch

from strategies.method import Tensors


@dataclass(frozen=True)
class ServerOptimizer:
    """x ← x + step(Δ), Δ the average of the clients' tensors minus x. Its memory is passed in and out."""

    kind: Literal["momentum", "nesterov", "adam", "yogi"]
    """The rule, as in `step`."""
    lr: float
    """η."""
    momentum: float
    """μ, or β₁."""
    beta2: float = 0.99
    """β₂."""
    tau: float = 1e-3
    """τ."""

    def step(self, change: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        """Return what is added to x, and the memory after this step.

        - momentum: v ← μv + Δ, step ηv; nesterov: step η(Δ + μv) (as in torch.optim.SGD).
        - adam: m ← β₁m + (1 − β₁)Δ, v ← β₂v + (1 − β₂)Δ²; yogi: v ← v − (1 − β₂) sign(v − Δ²)Δ². Both: step
          η m̂ / (√v̂ + τ) with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ) after t steps.

        Args:
            change: Δ by name.
            memory: Empty before the first step.
        """
        if self.kind in ("momentum", "nesterov"):
            return self._along_velocity(change, memory)
        taken = memory.get("steps", torch.zeros(1)) + 1
        steps: Tensors = {}
        after: Tensors = {"steps": taken}
        count = int(taken)
        for name, delta in change.items():
            zero = torch.zeros_like(delta)
            first, second = memory.get(f"first.{name}", zero), memory.get(f"second.{name}", zero)
            square = delta.square()
            first = self.momentum * first + (1 - self.momentum) * delta
            if self.kind == "adam":
                second = self.beta2 * second + (1 - self.beta2) * square
            else:
                second = second - (1 - self.beta2) * torch.sign(second - square) * square
            mean, size = first / (1 - self.momentum**count), second / (1 - self.beta2**count)
            steps[name] = self.lr * mean / (size.sqrt() + self.tau)
            after |= {f"first.{name}": first, f"second.{name}": second}
        return steps, after

    def _along_velocity(self, change: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        steps: Tensors = {}
        after: Tensors = {}
        for name, delta in change.items():
            velocity = self.momentum * memory[name] + delta if name in memory else delta
            after[name] = velocity
            steps[name] = self.lr * (delta + self.momentum * velocity if self.kind == "nesterov" else velocity)
        return steps, after
