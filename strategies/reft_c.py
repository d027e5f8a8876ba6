"""ReFT-C: one shift for all users, trained by federated averaging; to ReFT what LoRA-C is to LoRA. No personal part.

ReFT: Wu et al., NeurIPS 2024 (arXiv 2404.03592). The rank of φ is the sum of the two stages' ranks, so that as many
parameters are trained as in PerFit's stage 1.
"""

from torch import nn

from strategies import shifts
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult
from strategies.shifts.averages import ShiftAggregator, find_average
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts

_STAGE, _SHARED, _KEY = "collective", "shared_collective", "rank.shared + rank.private"


class ReftC(Method):
    """h ↦ φ(h) at every site, φ of rank r⁽¹⁾ + r⁽²⁾, the same for every user."""

    name = "reft-c"
    first_round = 1

    def __init__(
        self,
        sites: list[int],
        positions: str,
        rank_shared: int | list[int],
        rank_private: int | list[int],
        aggregation: str,
        seed: int,
    ) -> None:
        """Take the settings; see `PerFit`."""
        self.sites = shifts.checked_sites(sites)
        self.positions = Positions.parse(positions)
        self.ranks = shifts.summed_ranks(self.sites, _KEY, rank_shared, rank_private)
        self.average = find_average(aggregation)
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        shifts.check_fit(_KEY, self.ranks, backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the identity at every site."""
        return shifts.start(self.ranks, backbone.hidden, self.seed, _STAGE, _SHARED)

    def server_aggregator(self, state: Tensors, _round_number: int) -> ShiftAggregator:
        """Return the aggregator of (R, W, b) that `aggregation` names."""
        return ShiftAggregator(state, self.average)

    def to_wire(self, shared: Tensors) -> Tensors:
        """Return R, D = W − R and b."""
        return shifts.to_wire(shared)

    def from_wire(self, coded: Tensors) -> Tensors:
        """Return R, W and b with RRᵀ = I."""
        return shifts.from_wire(coded)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach φ to every site."""
        return SiteShifts(model, self.positions, backbone.hidden, {_STAGE: self.ranks})

    def client_train(self, adapter: SiteShifts, request: TrainRequest) -> TrainResult:
        """Train φ."""
        self.client_load(adapter, request.shared, None)
        result = shifts.train(adapter, [_STAGE], request.fit)
        return TrainResult(shifts.state(adapter, _STAGE, _SHARED), result)

    def client_load(self, adapter: SiteShifts, shared: Tensors, _private: Tensors | None) -> None:
        """Set φ."""
        shifts.load(adapter, _STAGE, shared, _SHARED)
