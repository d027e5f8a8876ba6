"""ReFT-P: every user trains a shift locally; nothing is sent. PerFit without its stage 1 (Table 4, "@Stage-2")."""

from torch import nn

from strategies import shifts
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.sends_nothing import SendsNothing
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts

_STAGE, _PRIVATE = "personal", "private_personal"


class ReftP(SendsNothing):
    """h ↦ φ⁽²⁾(h) at every site, from the identity; trained as PerFit trains its φ⁽²⁾."""

    name = "reft-p"

    def __init__(
        self,
        sites: list[int],
        positions: str,
        rank_private: int | list[int],
        seed: int,
        private_sites: list[int] | None = None,
        rate_R: float = 1.0,
        rate_b: float = 1.0,
    ) -> None:
        """Take the settings; see `PerFit`."""
        self.ranks, self._sites_key = shifts.personal_ranks(sites, private_sites, rank_private)
        self.positions = Positions.parse(positions)
        self.rates = shifts.checked_rates(rate_R, rate_b)
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        shifts.check_fit("rank.private", self.ranks, backbone, self._sites_key)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach φ⁽²⁾ to every site."""
        return SiteShifts(model, self.positions, backbone.hidden, {_STAGE: self.ranks})

    def client_personalize(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train φ⁽²⁾ from the identity."""
        self.client_load(adapter, shared, None)
        result = shifts.train(adapter, [_STAGE], fit, self.rates)
        return shifts.state(adapter, _STAGE, _PRIVATE), result

    def client_load(self, adapter: SiteShifts, _shared: Tensors, private: Tensors | None) -> None:
        """Set φ⁽²⁾; without it the backbone acts unchanged."""
        begin = private or shifts.start(self.ranks, adapter.hidden, self.seed, _STAGE, _PRIVATE)
        shifts.load(adapter, _STAGE, begin, _PRIVATE)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2r⁽²⁾d + r⁽²⁾)."""
        return shifts.parameters(self.ranks, backbone.hidden)
