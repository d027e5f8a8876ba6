"""FedEx-LoRA: A and B are averaged as in FedIT; the residual of the mean of BA is added to the frozen weights.

Singhal et al., ACL 2025 (arXiv 2410.09432). No personal part.
"""

from collections.abc import Mapping

import torch
from torch import nn

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora import merging
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult, travelling


class FedexLora(Method):
    """W ← W + (α/r)B̄Ā + Σ_t (α/r)(Σ_k p_kB_kA_k − B̄Ā)⁽ᵗ⁾."""

    name = "fedex-lora"
    first_round = 1

    def __init__(
        self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str, seed: int
    ) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0."""
        return lora.start(self.lora.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return Ā, B̄ and the residuals that `user` lacks."""
        return travelling(state) | merging.missing(state, user)

    def server_aggregator(self, state: Tensors, round_number: int) -> "MeanAndResidual":
        """Return the aggregator of the means and the factored residual."""
        return MeanAndResidual(state, round_number, self.lora.alpha / self.lora.rank)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        return lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Merge the received residuals, then train A and B from the means."""
        kept = merging.merge(request.shared, request.client_state)
        merging.set_base(adapter, kept)
        trained = lora.train_shared(adapter, request)
        return TrainResult(trained.shared, trained.fit, kept)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Merge the residuals into the weights and set the mean adapter."""
        merging.set_base(adapter, merging.merge(shared, {}))
        adapter.load(COLLECTIVE, shared, SHARED)
        adapter.use(COLLECTIVE)


class MeanAndResidual:
    """Ā, B̄ and the residual Σp_kB_kA_k − B̄Ā as a product of rank (K−1)r.

    Σp_k(B_k − B̄) = 0, so the residual is Σ_k p_k(B_k − B̄)A_k and also Σ_k p_k(B_k − B̄)(A_k − A_K), whose term for
    the last client K is 0: the A_k − A_K are stacked vertically, the p_k(B_k − B̄) horizontally.
    """

    per_user = True

    def __init__(self, state: Tensors, round_number: int, scale: float) -> None:
        """Start a round; `scale` is α/r."""
        self._mean = TensorMean(state)
        self.expected = self._mean.expected
        self._round, self._scale = round_number, scale
        self._clients: list[tuple[int, Tensors, int]] = []

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's factors."""
        self._mean.add(user, shared, num_examples)
        self._clients.append((user, shared, num_examples))

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Compute the means and factor the residual."""
        state, _ = self._mean.result()
        total = sum(examples for _, _, examples in self._clients)
        *others, (_, last, _) = self._clients
        changes: Tensors = {}
        for name in last if others else ():
            module = name.removeprefix(f"{SHARED}.")
            if name.endswith(".A"):
                rows = [shared[name].double() - last[name] for _, shared, _ in others]
                changes[module] = torch.cat(rows)
            else:
                columns = [self._scale * n / total * (shared[name].double() - state[name]) for _, shared, n in others]
                changes[module] = torch.cat(columns, dim=1)
        users = [user for user, _, _ in self._clients]
        return merging.push(state, self._round, changes, users), {}
