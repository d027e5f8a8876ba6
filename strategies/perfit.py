"""PerFit, federated: a collective shift learned together, a personalised shift kept at home.

PerFit: Exploring Personalization Shifts in Representation Space of LLMs (ICLR 2026), eq. 1 and 2, Algorithm 1.
"""

from collections.abc import Iterable

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies.adapters.positions import Positions
from strategies.adapters.shift import random_orthonormal
from strategies.adapters.sites import SiteShifts
from strategies.aggregation import AGGREGATORS, ShiftAggregator
from strategies.method import BackboneShape, Fit, FitResult, Tensors

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

COLLECTIVE, PERSONAL = "collective", "personal"


class PerFit:
    """h ↦ φ⁽²⁾ ∘ φ⁽¹⁾ (h) at every site: φ⁽¹⁾ collective, φ⁽²⁾ personalised (eq. 1).

    Stage 1 (Algorithm 1, lines 4-13) trains φ⁽¹⁾ and the common start of φ⁽²⁾ on the collective users, and
    both travel. Stage 2 (lines 14-23) starts a user's φ⁽²⁾ from that common start and trains only it.
    """

    name = "perfit"

    def __init__(
        self,
        sites: list[int],
        positions: str,
        rank_shared: int,
        rank_private: int,
        joint_private_init: bool,
        aggregation: str,
        seed: int,
    ) -> None:
        """Take the settings.

        Args:
            sites: Decoder blocks whose output is intervened on, counted from 0.
            positions: `all`, `fN`, `lN` or `fN+lN`.
            rank_shared: r⁽¹⁾.
            rank_private: r⁽²⁾.
            joint_private_init: Stage 1 also trains the start of φ⁽²⁾; if false only φ⁽¹⁾ travels and φ⁽²⁾
                starts at the identity.
            aggregation: A key of `strategies.aggregation.AGGREGATORS`.
            seed: The run's seed; the start of every R derives from it.

        Raises:
            ValueError: A setting cannot be right for any backbone.
        """
        if not sites or len(set(sites)) != len(sites):
            raise ValueError(f"sites={sites}: expected at least one block, each named once")
        if aggregation not in AGGREGATORS:
            raise ValueError(f"aggregation='{aggregation}': expected one of {', '.join(AGGREGATORS)}")
        for key, rank in (("rank.shared", rank_shared), ("rank.private", rank_private)):
            if rank < 1:
                raise ValueError(f"{key}={rank}: expected at least 1")
        self.sites = sorted(sites)
        self.positions = Positions.parse(positions)
        self.ranks = {COLLECTIVE: rank_shared, PERSONAL: rank_private}
        self.joint_private_init = joint_private_init
        self.aggregation = aggregation
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        for site in self.sites:
            if not 0 <= site < backbone.blocks:
                raise ValueError(f"sites={self.sites}: the backbone has blocks 0 to {backbone.blocks - 1}")
        for key, rank in (("rank.shared", self.ranks[COLLECTIVE]), ("rank.private", self.ranks[PERSONAL])):
            if rank > backbone.hidden:
                raise ValueError(f"{key}={rank}: the backbone's hidden size is {backbone.hidden}")

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return R a random orthonormal basis, W = R, b = 0: every φ is the identity."""
        shared: Tensors = {}
        for stage in self._travelling():
            for site in self.sites:
                R, W, b = self._identity(stage, site, backbone.hidden)
                prefix = f"shared_{stage}.{site}"
                shared |= {f"{prefix}.R": R, f"{prefix}.W": W, f"{prefix}.b": b}
        return shared

    def server_aggregator(self, shared: Tensors) -> ShiftAggregator:
        """Return the fold over (R, W, b) that `aggregation` names."""
        return ShiftAggregator(shared, AGGREGATORS[self.aggregation])

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Put φ⁽²⁾ ∘ φ⁽¹⁾ on every site of the frozen backbone."""
        return SiteShifts(model, self.sites, self.positions, backbone.hidden, self.ranks)

    def client_train(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train φ⁽¹⁾, and the start of φ⁽²⁾ where it travels, on one collective user."""
        self.client_load(adapter, shared, None)
        result = self._train(adapter, self._travelling(), fit)
        return {f"shared_{key}": value for stage in self._travelling() for key, value in _state(adapter, stage)}, result

    def client_personalize(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train φ⁽²⁾ alone on one target user, on top of the fixed φ⁽¹⁾."""
        self.client_load(adapter, shared, None)
        result = self._train(adapter, [PERSONAL], fit)
        return {f"private_{key}": value for key, value in _state(adapter, PERSONAL)}, result

    def client_load(self, adapter: SiteShifts, shared: Tensors, private: Tensors | None) -> None:
        """Set φ⁽¹⁾ from `shared`, and φ⁽²⁾ from `private`, else from its common start."""
        for site in adapter.sites():
            adapter.shift(COLLECTIVE, site).load(*_triple(shared, f"shared_{COLLECTIVE}.{site}"))
            if private is not None:
                personal = _triple(private, f"private_{PERSONAL}.{site}")
            elif self.joint_private_init:
                personal = _triple(shared, f"shared_{PERSONAL}.{site}")
            else:
                hidden = adapter.shift(PERSONAL, site).R.shape[1]
                personal = self._identity(PERSONAL, int(site), hidden)
            adapter.shift(PERSONAL, site).load(*personal)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2r⁽²⁾d + r⁽²⁾)."""
        rank = self.ranks[PERSONAL]
        return len(self.sites) * (2 * rank * backbone.hidden + rank)

    def _travelling(self) -> list[str]:
        return [COLLECTIVE, PERSONAL] if self.joint_private_init else [COLLECTIVE]

    def _identity(self, stage: str, site: int, hidden: int) -> Triple:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "start", stage, site))
        R = random_orthonormal(self.ranks[stage], hidden, generator)
        return R, R.clone(), torch.zeros(len(R))

    def _train(self, adapter: SiteShifts, stages: list[str], fit: Fit) -> FitResult:
        shifts = [adapter.shift(stage, site) for stage in stages for site in adapter.sites()]

        def retract_all() -> None:
            for shift in shifts:
                shift.retract()

        return fit([parameter for shift in shifts for parameter in shift.parameters()], retract_all)


def _state(adapter: SiteShifts, stage: str) -> Iterable[tuple[str, torch.Tensor]]:
    for site in adapter.sites():
        for letter, value in adapter.shift(stage, site).named_parameters():
            yield f"{stage}.{site}.{letter}", value.detach().cpu().clone()


def _triple(tensors: Tensors, prefix: str) -> Triple:
    return tensors[f"{prefix}.R"], tensors[f"{prefix}.W"], tensors[f"{prefix}.b"]
