"""LoRA-C, which is FedIT: one LoRA for all users, trained by federated averaging of A and of B; no personal part.

FedIT: Zhang et al., ICASSP 2024; the name LoRA-C is PerFit's (appendix D.5.3).
"""

from torch import nn

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult


class LoraC(Method):
    """W ← W + (α/r)BA, the same A and B for every user."""

    name = "lora-c"
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

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of A and the mean of B."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        return lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train A and B."""
        return lora.train_shared(adapter, request)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Set A and B."""
        adapter.load(COLLECTIVE, shared, SHARED)
        adapter.use(COLLECTIVE)
