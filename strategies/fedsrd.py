"""FedSRD: sparse changes of A and B up; the server averages the products and sends a sparse change of A or of B down.

Yan et al. (arXiv 2510.04601), with the constants of its published code. No personal part.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies import lora
from strategies.bounds import check_at_least
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult, travelling


@dataclass(frozen=True)
class Pruning:
    """Which share of a matrix's change is not sent: base + min(most, slope · ln max(κ, 1)).

    κ is the kurtosis of the importances: the fewer numbers matter, the fewer are sent.
    """

    base: float
    """Share for importances without outliers."""
    slope: float
    """By how much the share grows with ln κ."""
    most: float
    """By how much it grows at most."""

    def share(self, importance: torch.Tensor) -> float:
        """Return the share of a matrix that is not sent."""
        centred = importance - importance.mean()
        variance = float(centred.square().mean())
        kurtosis = float(centred.pow(4).mean()) / variance**2 if variance else 1.0
        return self.base + min(self.most, self.slope * math.log(max(kurtosis, 1.0)))


class FedSrd(Method):
    """W ← W + (α/r)BA; in odd rounds B changes, in even rounds A."""

    name = "fedsrd"
    first_round = 1

    def __init__(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        targets: list[str],
        blocks: list[int] | str,
        prune_base: float,
        prune_slope: float,
        prune_most: float,
        drop: float,
        truncate: bool,
        seed: int,
    ) -> None:
        """Take the settings; see `LoraSettings`.

        Args:
            rank: r.
            alpha: α.
            dropout: Dropout rate.
            targets: Suffixes of the modules' names.
            blocks: Adapted blocks.
            prune_base: See `Pruning`.
            prune_slope: See `Pruning`.
            prune_most: See `Pruning`.
            drop: Share of the server's change that is left out at random; the rest is divided by 1 − `drop`.
            truncate: The server takes the nearest product of rank r to the average; if false, the average (FedSRD-e).
            seed: The run's seed.

        Raises:
            ValueError: A setting is negative, or a share is not below 1.
        """
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        check_at_least(0, prune_base=prune_base, prune_slope=prune_slope, prune_most=prune_most)
        for key, share in (("prune_base", prune_base + prune_most), ("drop", drop)):
            if not 0 <= share < 1:
                raise ValueError(
                    f"settings.{key}: leaves out {share:.0%} of a change; expected at least 0 and below 100%"
                )
        self.pruning = Pruning(prune_base, prune_slope, prune_most)
        self.drop, self.truncate, self.seed = drop, truncate, seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0."""
        return lora.start(self.lora.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)

    def server_aggregator(self, state: Tensors, round_number: int) -> "ProductMean":
        """Return the mean of the products BA, as a change of B in odd rounds and of A in even ones."""
        return ProductMean(state, round_number, self.drop, self.truncate, self.seed)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        return lora.attach(model, {COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train A and B and keep the largest part of their changes."""
        trained = lora.train_shared(adapter, request)
        sent = request.shared
        pruned: Tensors = {}
        for name, A in sent.items():
            if name.endswith(".A"):
                other = f"{name.removesuffix('A')}B"
                norms = trained.shared[other].norm(dim=0)[:, None], A.norm(dim=1)[None]
                for key, norm in zip((name, other), norms, strict=True):
                    pruned[key] = sent[key] + prune(trained.shared[key] - sent[key], norm, self.pruning)
        return TrainResult(pruned, trained.fit)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Set A and B."""
        adapter.load(COLLECTIVE, shared, SHARED)
        adapter.use(COLLECTIVE)


def prune(change: torch.Tensor, norms: torch.Tensor, pruning: Pruning) -> torch.Tensor:
    """Return a change whose least important numbers are 0 and the others scaled so that Σ|change| stays.

    ΔA_ij moves BA by |ΔA_ij|·‖B_:,i‖ and ΔB_ij by |ΔB_ij|·‖A_j,:‖: their importances.

    Args:
        change: ΔA [r, n] or ΔB [m, r].
        norms: ‖B_:,i‖ [r, 1] or ‖A_j,:‖ [1, r].
        pruning: How much becomes 0.
    """
    importance = (change.abs() * norms).double()
    if not importance.isfinite().all():
        return change  # for the server to refuse; a comparison with NaN would make it 0
    kept = torch.where(importance >= importance.quantile(pruning.share(importance)), change, 0.0)
    before, after = change.abs().sum(), kept.abs().sum()
    return kept * (before / after) if after else kept


class ProductMean:
    """A and B such that BA is near Σp_kB_kA_k, where only one of them changes.

    Let W̄ = Σp_kB_kA_k, or the nearest matrix of rank r (truncated SVD), and ΔW = W̄ − BA. In odd rounds
    B ← B + ΔW A⁺, in even rounds A ← A + B⁺ ΔW, the least-squares solutions; of their entries a random share is left
    out and the rest scaled so that the mean stays. B is 0 in the first round, so A could not begin.
    """

    per_user = False

    def __init__(self, state: Tensors, round_number: int, drop: float, truncate: bool, seed: int) -> None:
        """Start a round."""
        self.expected = travelling(state)
        self._round, self._drop, self._truncate, self._seed = round_number, drop, truncate, seed
        self._clients: list[tuple[Tensors, int]] = []

    def add(self, _user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's factors."""
        self._clients.append((shared, num_examples))

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the next A and B; `lost` is the share of ‖ΔW‖² that the change of one factor cannot express.

        Raises:
            ValueError: No client replied.
        """
        total = sum(examples for _, examples in self._clients)
        if not total:
            raise ValueError("a round without a single reply cannot be aggregated")
        state = dict(self.expected)
        lost, squares = 0.0, 0.0
        for name in self.expected:
            if name.endswith(".A"):
                prefix = name.removesuffix("A")
                changed, missing, square = self._change(prefix, total)
                state |= changed
                lost, squares = lost + missing, squares + square
        return state, {"lost": lost / squares if squares else 0.0}

    def _change(self, prefix: str, total: int) -> tuple[Tensors, float, float]:
        A, B = (self.expected[f"{prefix}{letter}"].double() for letter in "AB")
        left = torch.cat([n / total * shared[f"{prefix}B"].double() for shared, n in self._clients], dim=1)
        right = torch.cat([shared[f"{prefix}A"].double() for shared, _ in self._clients])
        if self._truncate:
            left, right = truncated(left, right, len(A))
        change = left @ right - B @ A
        letter = "B" if self._round % 2 else "A"
        solved = change @ _inverse(A) if letter == "B" else _inverse(B) @ change
        reached = solved @ A if letter == "B" else B @ solved
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "drop", self._round, prefix))
        kept = torch.rand(solved.shape, generator=generator, dtype=torch.float64) >= self._drop
        old = self.expected[f"{prefix}{letter}"]
        # Where nothing is added the old bits stay, so that a codec for zeros sees none.
        new = torch.where(kept, (old.double() + solved / (1 - self._drop)).float(), old)
        return {f"{prefix}{letter}": new}, float((change - reached).square().sum()), float(change.square().sum())


def _inverse(factor: torch.Tensor) -> torch.Tensor:
    """Return the pseudo-inverse of a factor whose numbers were fp32: smaller singular values are their rounding."""
    inverse: torch.Tensor = torch.linalg.pinv(factor, rtol=max(factor.shape) * torch.finfo(torch.float32).eps)
    return inverse


def truncated(left: torch.Tensor, right: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of the nearest product of rank r to `left` [m, k] `right` [k, n], by two QR and one k×k SVD."""
    Q_left, T_left = torch.linalg.qr(left)
    Q_right, T_right = torch.linalg.qr(right.T)
    U, sigma, Vt = torch.linalg.svd(T_left @ T_right.T, full_matrices=False)
    return Q_left @ (U[:, :rank] * sigma[:rank]), Vt[:rank] @ Q_right.T
