"""Fed-SB: only an r×r matrix between two fixed bases is trained and sent, so the mean of the products is exact.

Singhal et al., arXiv 2502.15436 (LoRA-SB). There the bases are the singular vectors of an average gradient of all
weights. Its upload would be larger than all that follows, so here they are those of the weights themselves, as in
LoRA-XS (Bałazy et al., arXiv 2405.17604): every client can compute them. No personal part.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult

_SHARED = "shared_core"


class FedSb(Method):
    """W ← W + (α/r) U M Vᵀ: U [m, r] and V [n, r] are the first singular vectors of W, M [r, r] starts at 0."""

    name = "fed-sb"
    first_round = 1

    def __init__(self, rank: int, alpha: int, dropout: float, targets: list[str], blocks: list[int] | str) -> None:
        """Take the settings; see `LoraSettings`."""
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return M = 0."""
        adapter = self.lora.on(backbone)
        return {f"{_SHARED}.{module}.M": torch.zeros(adapter.rank, adapter.rank) for module in adapter.modules}

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of M."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter with A = M Vᵀ, in which only M is a parameter, and B = U."""
        chosen = self.lora.on(backbone)
        adapter = lora.attach(model, {COLLECTIVE: chosen})
        for module in chosen.modules:
            U, Vt = first_singular_vectors(adapter.base_weight(module), chosen.rank)
            adapter.factor(COLLECTIVE, module, "B").weight.data.copy_(U)
            factor = adapter.factor(COLLECTIVE, module, "A")
            parametrize.register_parametrization(factor, "weight", _Between(Vt.to(factor.weight.device)))
        return adapter

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train M."""
        self.client_load(adapter, request.shared, None)
        cores = {name: self._core(adapter, name) for name in request.shared}
        result = request.fit(cores.values())
        return TrainResult({name: core.detach().cpu().clone() for name, core in cores.items()}, result)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Set M."""
        for name, value in shared.items():
            self._core(adapter, name).data.copy_(value)
        adapter.use(COLLECTIVE)

    def _core(self, adapter: LoraAdapters, name: str) -> nn.Parameter:
        module = name.removeprefix(f"{_SHARED}.").removesuffix(".M")
        factor: Any = adapter.factor(COLLECTIVE, module, "A")
        core: nn.Parameter = factor.parametrizations.weight.original
        return core


class _Between(nn.Module):
    """Writes a weight as M Vᵀ."""

    def __init__(self, Vt: torch.Tensor) -> None:
        super().__init__()
        self.Vt = Vt

    def forward(self, M: torch.Tensor) -> torch.Tensor:
        return M @ self.Vt

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the M of a new weight: its start, 0."""
        return torch.zeros(len(weight), len(weight), device=weight.device)


def first_singular_vectors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U [m, r] and Vᵀ [r, n] of the `rank` largest singular values of a weight [m, n], in fp32.

    Signs are not unique and libraries differ in them: the largest entry of each column of U is made positive.
    """
    U, _, Vt = torch.linalg.svd(weight.double().cpu(), full_matrices=False)
    U, Vt = U[:, :rank], Vt[:rank]
    signs = torch.sign(U.gather(0, U.abs().argmax(0, keepdim=True)))
    return (U * signs).float(), (Vt * signs.T).float()
