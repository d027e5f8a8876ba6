"""The weighted mean of all sent tensors, tensor by tensor: federated averaging (McMahan et al.)."""

from collections.abc import Mapping

import torch

from strategies.method import Tensors, travelling


class TensorMean:
    """Every `shared_*` tensor ← Σp_k of the clients', p_k ∝ num_examples, summed in float64."""

    per_user = False

    def __init__(self, state: Tensors) -> None:
        """Start a round from the server's state; tensors that are not sent stay unchanged."""
        self._state = state
        self.expected = travelling(state)
        self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self.expected.items()}
        self._weight = 0.0

    def add(self, _user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's tensors."""
        for name, total in self._sums.items():
            total.add_(shared[name].double(), alpha=num_examples)
        self._weight += num_examples

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Divide by the total weight and return the state in fp32.

        Raises:
            ValueError: No client replied.
        """
        if not self._weight:
            raise ValueError("a round without a single reply cannot be aggregated")
        return self._state | {name: (total / self._weight).float() for name, total in self._sums.items()}, {}
