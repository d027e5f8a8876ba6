"""FFA-LoRA: A stays at its initial value; only B is trained and sent, so the mean of BA is exact.

Sun et al., ICLR 2024 (arXiv 2403.12313). No personal part.
"""

from torch import nn

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult


class FfaLora(Method):
    """W ← W + (α/r)BA₀, A₀ from the run's seed on the server and every client."""

    name = "ffa-lora"
    first_round = 1

    def __init__(
        self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str, seed: int
    ) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return B = 0."""
        return {name: value for name, value in self._start(backbone).items() if name.endswith(".B")}

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of B."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter with A₀, which never changes."""
        adapter = lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})
        adapter.load(COLLECTIVE, self._start(backbone), SHARED)
        return adapter

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train B."""
        self.client_load(adapter, request.shared, None)
        result = request.fit(adapter.trainable(COLLECTIVE, letters="B"))
        return TrainResult(adapter.state(COLLECTIVE, SHARED, letters="B"), result)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Set B."""
        adapter.load(COLLECTIVE, shared, SHARED, letters="B")
        adapter.use(COLLECTIVE)

    def _start(self, backbone: BackboneShape) -> Tensors:
        return lora.start(self.lora.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)
