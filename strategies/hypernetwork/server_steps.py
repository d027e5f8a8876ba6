"""The server's step with a hypernetwork that stays there: clients' changes are pulled through the network.

After pFedHN (Shamsian et al., ICML 2021): the vector-Jacobian product of the network with a client's change.
"""

from collections.abc import Callable, Mapping

import torch

from strategies.aggregation.optimizers import ServerOptimizer
from strategies.method import Tensors

NETWORK, MEMORY = "server_network.", "server_memory."

Generate = Callable[[Tensors, torch.Tensor], Tensors]
"""From the network's parameters by name and a profile to an adapter as trained, without prefix."""


class PullThrough:
    """One step of the server: φ ← φ + step(Σp_u J_uᵀΔ_u).

    Δ_u is what client u changed in the adapter that it was sent, J_u the derivative of that adapter by the network's
    parameters φ, p_u ∝ num_examples. After one local step of plain SGD with rate η, Δ_u = −η∇L_u, and J_uᵀΔ_u is −η
    times the gradient that central training would take: of a LoRA exactly, of a shift to first order while D = 0 and
    b = 0. Later, the client's retraction turns the part of R's step that breaks RRᵀ = I into changes of D and b.
    """

    per_user = True

    def __init__(
        self,
        state: Tensors,
        profile_of: Callable[[int], torch.Tensor],
        generate: Generate,
        trained: Callable[[Tensors], Tensors],
        expected: Tensors,
        optimizer: ServerOptimizer,
    ) -> None:
        """Start a round.

        Args:
            state: The server's tensors.
            profile_of: The profile of a user, as its adapter was made.
            generate: The network.
            trained: From a sent adapter, without prefix, to the coordinates of `generate`.
            expected: As `Aggregator.expected`.
            optimizer: The server's.
        """
        self._state, self._profile_of, self._generate, self._trained = state, profile_of, generate, trained
        self._optimizer = optimizer
        self.expected = expected
        self._network = {name.removeprefix(NETWORK): v for name, v in state.items() if name.startswith(NETWORK)}
        self._sums = {name: torch.zeros_like(value) for name, value in self._network.items()}
        self._weight = 0.0

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Pull one client's change through the network."""
        parameters = {name: value.clone().requires_grad_() for name, value in self._network.items()}
        sent_out = self._generate(parameters, self._profile_of(user))
        returned = self._trained({name.partition(".")[2]: value for name, value in shared.items()})
        changes = [returned[name] - value.detach() for name, value in sent_out.items()]
        pulled = torch.autograd.grad(list(sent_out.values()), list(parameters.values()), changes)
        for total, part in zip(self._sums.values(), pulled, strict=True):
            total.add_(part, alpha=num_examples)
        self._weight += num_examples

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Take the step and return the state, and the norm of what was pulled through.

        Raises:
            ValueError: No client replied.
        """
        if not self._weight:
            raise ValueError("a round without a single reply cannot be aggregated")
        change = {name: total / self._weight for name, total in self._sums.items()}
        memory = {name.removeprefix(MEMORY): v for name, v in self._state.items() if name.startswith(MEMORY)}
        steps, memory = self._optimizer.step(change, memory)
        network = {f"{NETWORK}{name}": value + steps[name] for name, value in self._network.items()}
        norm = torch.cat([value.flatten() for value in change.values()]).norm()
        state = self._state | network | {f"{MEMORY}{name}": value for name, value in memory.items()}
        return state, {"pulled_norm": float(norm)}
