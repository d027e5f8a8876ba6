"""FLoRA: clients' adapters are stacked, not averaged, so that the sum of their products is exact.

Wang et al., NeurIPS 2024 (arXiv 2409.05976). In every round the clients merge the stacked product into their weights
and start new adapters. No personal part.
"""

from collections.abc import Mapping

import torch
from torch import nn

from strategies import lora
from strategies.lora import merging
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult

_START = "server_start"


class Flora(Method):
    """W ← W + Σ_t Σ_k p_k (α/r)B_k⁽ᵗ⁾A_k⁽ᵗ⁾."""

    name = "flora"
    first_round = 1

    def __init__(
        self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str, seed: int
    ) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed
        self._shape: BackboneShape | None = None

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the adapters that round 1 starts from; there is no stack yet."""
        return lora.start(self.lora.on(backbone), backbone, _START, self.seed, COLLECTIVE, 1)

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return the stacks that `user` lacks."""
        return merging.missing(state, user)

    def server_aggregator(self, state: Tensors, round_number: int) -> "Stack":
        """Return the aggregator that stacks the clients' factors."""
        start: Tensors = {}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            module, _, letter = rest.rpartition(".")
            if kind == _START:
                drawn = lora.first_a(*value.shape, self.seed, COLLECTIVE, round_number, module)
                start[f"{SHARED}.{rest}"] = drawn if letter == "A" else value
        return Stack(state, round_number, self.lora.alpha / self.lora.rank, start)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        self._shape = backbone
        return lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Merge the received stacks, train a new adapter and send it."""
        assert self._shape is not None
        kept = merging.merge(request.shared, request.client_state)
        merging.set_base(adapter, kept)
        begin = lora.start(self.lora.on(self._shape), self._shape, SHARED, self.seed, COLLECTIVE, request.round)
        adapter.load(COLLECTIVE, begin, SHARED)
        adapter.use(COLLECTIVE)
        result = request.fit(adapter.trainable(COLLECTIVE))
        return TrainResult(adapter.state(COLLECTIVE, SHARED), result, kept)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Merge everything into the weights and use no adapter."""
        merging.set_base(adapter, merging.merge(shared, {}))
        adapter.use()

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return P, for A and B."""
        return lora.parameters(self.lora.on(backbone), backbone)


class Stack:
    """ΔW = Σ_k p_k (α/r)B_kA_k as one product: the A_k stacked vertically, the p_k (α/r)B_k horizontally."""

    per_user = True

    def __init__(self, state: Tensors, round_number: int, scale: float, start: Tensors) -> None:
        """Start a round; `scale` is α/r, `start` the factors that its clients start from."""
        self._state, self._round, self._scale = state, round_number, scale
        self.expected = start
        self._clients: list[tuple[int, Tensors, int]] = []

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's factors."""
        self._clients.append((user, shared, num_examples))

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Stack the factors.

        Raises:
            ValueError: No client replied.
        """
        total = sum(examples for _, _, examples in self._clients)
        if not total:
            raise ValueError("a round without a single reply cannot be aggregated")
        changes: Tensors = {}
        for name in self._clients[0][1]:
            module = name.removeprefix(f"{SHARED}.")
            if name.endswith(".A"):
                changes[module] = torch.cat([shared[name] for _, shared, _ in self._clients])
            else:
                weighted = [self._scale * examples / total * shared[name] for _, shared, examples in self._clients]
                changes[module] = torch.cat(weighted, dim=1)
        users = [user for user, _, _ in self._clients]
        return merging.push(self._state, self._round, changes, users), {}
