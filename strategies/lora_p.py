"""LoRA-P: every user trains a LoRA locally; nothing is sent. The name is PerFit's (appendix D.5.3)."""

from torch import nn

from strategies import lora
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import PERSONAL, PRIVATE, LoraSettings
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.sends_nothing import SendsNothing


class LoraP(SendsNothing):
    """W ← W + (α/r)B_iA_i, from initial factors drawn by the seed."""

    name = "lora-p"

    def __init__(
        self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str, seed: int
    ) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.seed = seed
        self._begin: Tensors = {}

    def check(self, backbone: BackboneShape) -> None:
        """Refuse modules that the backbone does not have."""
        self.lora.on(backbone)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        adapter = self.lora.on(backbone)
        self._begin = lora.start(adapter, backbone, PRIVATE, self.seed, PERSONAL)
        return lora.attach(model, {PERSONAL: adapter})

    def client_personalize(self, adapter: LoraAdapters, _shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train A_i and B_i."""
        adapter.use(PERSONAL)
        return lora.train_personal(adapter, self._begin, fit)

    def client_load(self, adapter: LoraAdapters, _shared: Tensors, private: Tensors | None) -> None:
        """Set A_i and B_i; without them the backbone acts unchanged."""
        adapter.load(PERSONAL, private or self._begin, PRIVATE)
        adapter.use(PERSONAL)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return P."""
        return lora.parameters(self.lora.on(backbone), backbone)
