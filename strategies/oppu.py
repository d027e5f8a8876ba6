"""OPPU, federated: a collective LoRA, then fixed, and a personal LoRA trained on top of it.

OPPU: Tan et al., EMNLP 2024 (arXiv 2402.04401), with the modules and ranks of PerFit's appendix D.5.3.
"""

from torch import nn

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, PERSONAL, PRIVATE, SHARED, LoraSettings
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult


class Oppu(Method):
    """W ← W + (α/r)BA + (α/r)B_iA_i: BA averaged over users as in LoRA-C, B_iA_i the user's own."""

    name = "oppu"
    first_round = 1
    personal_keys = ("settings.private_targets", "settings.private_rank", "settings.private_alpha")

    def __init__(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        targets: list[str],
        private_targets: list[str],
        blocks: list[int] | str,
        seed: int,
        private_rank: int | None = None,
        private_alpha: int | None = None,
    ) -> None:
        """Take the settings; see `LoraSettings`. The personal adapter's are named `private`; by default the same."""
        self.collective = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        personal = (rank if private_rank is None else private_rank, alpha if private_alpha is None else private_alpha)
        self.personal = LoraSettings(*personal, dropout, tuple(private_targets), blocks)
        self.seed = seed
        self._begin: Tensors = {}

    def check(self, backbone: BackboneShape) -> None:
        """Refuse modules that the backbone does not have."""
        self.collective.on(backbone)
        self.personal.on(backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0."""
        return lora.start(self.collective.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of A and the mean of B."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach both adapters."""
        personal = self.personal.on(backbone)
        self._begin = lora.start(personal, backbone, PRIVATE, self.seed, PERSONAL)
        return lora.attach(model, {COLLECTIVE: self.collective.on(backbone), PERSONAL: personal})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train A and B."""
        return lora.train_shared(adapter, request)

    def client_personalize(self, adapter: LoraAdapters, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train A_i and B_i on top of the fixed A and B."""
        adapter.load(COLLECTIVE, shared, SHARED)
        adapter.use(COLLECTIVE, PERSONAL)
        return lora.train_personal(adapter, self._begin, fit)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, private: Tensors | None) -> None:
        """Set A and B, and A_i and B_i if the user has them."""
        adapter.load(COLLECTIVE, shared, SHARED)
        adapter.load(PERSONAL, private or self._begin, PRIVATE)
        adapter.use(COLLECTIVE, *([PERSONAL] if private else []))

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return P of the personal adapter."""
        return lora.parameters(self.personal.on(backbone), backbone)
