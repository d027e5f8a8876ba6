"""FedSA-LoRA: A and B are trained; only A is sent, B stays on its client.

Guo et al., ICLR 2025 (arXiv 2410.01463).
"""

import torch
from torch import nn

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, PRIVATE, SHARED, LoraSettings
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult


class FedsaLora(Method):
    """W ← W + (α/r)B_iA.

    A newcomer, which the paper does not cover, starts from the averaged A and B = 0, trains both like any client in a
    round, and keeps both. Without a personal part, B = 0 leaves the bare backbone.
    """

    name = "fedsa-lora"
    first_round = 1

    def __init__(
        self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str, seed: int
    ) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed."""
        begin = lora.start(self.lora.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)
        return {name: value for name, value in begin.items() if name.endswith(".A")}

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of A."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        return lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train A and the client's own B; A is sent back, B is kept."""
        self._set(adapter, request.shared, request.client_state)
        result = request.fit(adapter.trainable(COLLECTIVE))
        sent = adapter.state(COLLECTIVE, SHARED, letters="A")
        return TrainResult(sent, result, adapter.state(COLLECTIVE, PRIVATE, letters="B"))

    def client_personalize(self, adapter: LoraAdapters, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train A and B and keep both."""
        self._set(adapter, shared, {})
        result = fit(adapter.trainable(COLLECTIVE))
        return adapter.state(COLLECTIVE, PRIVATE), result

    def client_load(self, adapter: LoraAdapters, shared: Tensors, private: Tensors | None) -> None:
        """Set the user's own A and B, or the shared A and B = 0 if there are none."""
        if private:
            adapter.load(COLLECTIVE, private, PRIVATE)
            adapter.use(COLLECTIVE)
        else:
            self._set(adapter, shared, {})

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return P, for a newcomer's A and B."""
        return lora.parameters(self.lora.on(backbone), backbone)

    def _set(self, adapter: LoraAdapters, shared: Tensors, private: Tensors) -> None:
        adapter.load(COLLECTIVE, shared, SHARED, letters="A")
        if private:
            adapter.load(COLLECTIVE, private, PRIVATE, letters="B")
        else:
            with torch.no_grad():
                for parameter in adapter.trainable(COLLECTIVE, letters="B"):
                    parameter.zero_()
        adapter.use(COLLECTIVE)
