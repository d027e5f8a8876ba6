"""StyleVector: the mean difference between a user's own answers and the backbone's, added where an answer is written.

Zhang et al., ACL 2025 (arXiv 2503.05213); the answers without style are the backbone's own, decoded greedily.
Federated, clients send their vectors once, and a user with few items is served mostly by the mean: our extension.
"""

import torch
from torch import nn

from strategies.aggregation.mean import TensorMean
from strategies.bounds import check_at_least
from strategies.client_tools import ClientTools
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.prompting.wording import spread_items
from strategies.steering.added_vector import AddedVector

_SHARED, _PRIVATE = "shared_style.vector", "private_style.vector"
_HALF_TRUSTED = 5
"""Items of a user whose own vector counts as much as the mean of all."""


class StyleVector(Method):
    """h_t ← h_t + α s_u at one block, s_u = mean over the user's items of h(x, y) − h(x, ŷ)."""

    name = "stylevector"
    trains_newcomers = False
    last_round = 0

    def __init__(self, depth: float, strength: float, federated: bool, most_items: int) -> None:
        """Take the settings.

        Args:
            depth: Where the block is, as a share of the blocks; the source's best are in the middle and after it.
            strength: α.
            federated: Stage 1 is one round in which every collective user sends its s_u; without it nothing is sent.
            most_items: Items of a history that are used, spread over it: each costs an answer and two passes.

        Raises:
            ValueError: A setting is outside its range.
        """
        if not 0 < depth < 1:
            raise ValueError(f"settings.depth={depth}: expected a share of the blocks, above 0 and below 1")
        check_at_least(1, most_items=most_items)
        self.depth, self.strength, self.most_items = depth, strength, most_items
        self.federated = federated
        self.first_round = 0 if federated else None

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return s̄ = 0, if it is sent."""
        return {_SHARED: torch.zeros(backbone.hidden)} if self.federated else {}

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of the clients' vectors, weighted by their items."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> AddedVector:
        """Attach the vector to its block."""
        return AddedVector(model, int(self.depth * backbone.blocks), backbone.hidden)

    def client_train(self, adapter: AddedVector, request: TrainRequest) -> TrainResult:
        """Return s_u."""
        vector = self._own_vector(adapter, request.fit.client)
        return TrainResult({_SHARED: vector}, FitResult(len(request.fit.client.history), 0))

    def client_personalize(self, adapter: AddedVector, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Return λ s_u + (1 − λ) s̄ with λ = n/(n + 5) for n items; without s̄, s_u."""
        count = len(fit.client.history)
        vector = self._own_vector(adapter, fit.client)
        if self.federated:
            share = count / (count + _HALF_TRUSTED)
            vector = share * vector + (1 - share) * shared[_SHARED]
        return {_PRIVATE: vector}, FitResult(count, 0)

    def client_load(self, adapter: AddedVector, shared: Tensors, private: Tensors | None) -> None:
        """Set the user's vector, or s̄, or 0."""
        vector = private[_PRIVATE] if private else shared.get(_SHARED)
        adapter.v.copy_(torch.zeros_like(adapter.v) if vector is None else self.strength * vector)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return d."""
        return backbone.hidden

    def _own_vector(self, adapter: AddedVector, client: ClientTools) -> torch.Tensor:
        """Return s_u, [d]: both answers end with the same token, at which the states are compared."""
        items = spread_items(client.history, self.most_items)
        plain = client.answers([item.source for item in items])
        texts = [f"{client.prompt(item.source)} {item.target.strip()}" for item in items]
        texts += [f"{client.prompt(item.source)} {answer}" for item, answer in zip(items, plain, strict=True)]
        states = client.states(texts, "block")[:, adapter.frozen_blocks - 1]
        return states[: len(items)].mean(dim=0) - states[len(items) :].mean(dim=0)
