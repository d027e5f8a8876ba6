"""PerFit, federated: a collective shift trained by all clients, and a personalised shift that stays on its client.

PerFit: Exploring Personalization Shifts in Representation Space of LLMs (ICLR 2026), eq. 1 and 2, Algorithm 1.
"""

from torch import nn

from strategies import shifts
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.shifts.averages import ShiftAggregator, find_average
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts

COLLECTIVE, PERSONAL = "collective", "personal"


class PerFit(Method):
    """h ↦ φ⁽²⁾ ∘ φ⁽¹⁾ (h) at every site: φ⁽¹⁾ collective, φ⁽²⁾ personalised (eq. 1). Each may have sites of its own.

    Stage 1 (Algorithm 1, lines 4-13) trains φ⁽¹⁾ and the common start of φ⁽²⁾ on the collective users, and
    both are sent. Stage 2 (lines 14-23) starts a user's φ⁽²⁾ from that common start and trains only it.
    """

    name = "perfit"
    first_round = 1

    def __init__(
        self,
        sites: list[int],
        positions: str,
        rank_shared: int | list[int],
        rank_private: int | list[int],
        joint_private_init: bool,
        aggregation: str,
        seed: int,
        private_sites: list[int] | None = None,
        rate_R: float = 1.0,
        rate_b: float = 1.0,
    ) -> None:
        """Take the settings.

        Args:
            sites: Decoder blocks whose output φ⁽¹⁾ acts on, counted from 0.
            positions: `all`, `all-fN`, `fN`, `lN` or `fN+lN`.
            rank_shared: r⁽¹⁾, or one for each site.
            rank_private: r⁽²⁾, likewise.
            joint_private_init: Stage 1 also trains the start of φ⁽²⁾; if false, only φ⁽¹⁾ is sent and φ⁽²⁾
                starts at the identity.
            aggregation: A key of `strategies.shifts.averages.AGGREGATORS`.
            seed: The run's seed; the start of every R derives from it.
            private_sites: Those whose output φ⁽²⁾ acts on; None: the same.
            rate_R: Learning rate of R as a multiple of D's. AdamW's steps do not depend on the size of a gradient, so a
                rate is a length per step: R's rows have length 1 and D's start at 0.
            rate_b: Learning rate of b as a multiple of D's.

        Raises:
            ValueError: A setting is invalid for every backbone.
        """
        collective = shifts.ranks_at(shifts.checked_sites(sites), "rank.shared", rank_shared)
        personal, self._personal_key = shifts.personal_ranks(sites, private_sites, rank_private)
        self.ranks = {COLLECTIVE: collective, PERSONAL: personal}
        self.positions = Positions.parse(positions)
        self.rates = shifts.checked_rates(rate_R, rate_b)
        self.joint_private_init = joint_private_init
        if not joint_private_init:
            self.personal_keys = ("private_sites", "rank.private")
        self.average = find_average(aggregation)
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        shifts.check_fit("rank.shared", self.ranks[COLLECTIVE], backbone)
        shifts.check_fit("rank.private", self.ranks[PERSONAL], backbone, self._personal_key)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return a random orthonormal R, W = R and b = 0: every φ is the identity."""
        state: Tensors = {}
        for name in self._travelling():
            state |= self._start(name, backbone.hidden, f"shared_{name}")
        return state

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
        """Attach φ⁽²⁾ ∘ φ⁽¹⁾ to every site of the frozen backbone."""
        return SiteShifts(model, self.positions, backbone.hidden, self.ranks)

    def client_train(self, adapter: SiteShifts, request: TrainRequest) -> TrainResult:
        """Train φ⁽¹⁾, and the start of φ⁽²⁾ if it is sent, on one collective user."""
        self.client_load(adapter, request.shared, None)
        result = shifts.train(adapter, self._travelling(), request.fit, self.rates)
        state: Tensors = {}
        for name in self._travelling():
            state |= shifts.state(adapter, name, f"shared_{name}")
        return TrainResult(state, result)

    def client_personalize(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train only φ⁽²⁾ on one target user, on top of the fixed φ⁽¹⁾."""
        self.client_load(adapter, shared, None)
        result = shifts.train(adapter, [PERSONAL], fit, self.rates)
        return shifts.state(adapter, PERSONAL, f"private_{PERSONAL}"), result

    def client_load(self, adapter: SiteShifts, shared: Tensors, private: Tensors | None) -> None:
        """Set φ⁽¹⁾ from `shared`, and φ⁽²⁾ from `private` or, without it, from its common start."""
        shifts.load(adapter, COLLECTIVE, shared, f"shared_{COLLECTIVE}")
        if private is not None:
            shifts.load(adapter, PERSONAL, private, f"private_{PERSONAL}")
        elif self.joint_private_init:
            shifts.load(adapter, PERSONAL, shared, f"shared_{PERSONAL}")
        else:
            shifts.load(adapter, PERSONAL, self._start(PERSONAL, adapter.hidden, PERSONAL), PERSONAL)

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2r⁽¹⁾d + r⁽¹⁾), plus L(2r⁽²⁾d + r⁽²⁾) if the start of φ⁽²⁾ is sent; L is the number of its sites."""
        return sum(self._parameters(name, backbone) for name in self._travelling())

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2r⁽²⁾d + r⁽²⁾)."""
        return self._parameters(PERSONAL, backbone)

    def _parameters(self, shift_name: str, backbone: BackboneShape) -> int:
        return shifts.parameters(self.ranks[shift_name], backbone.hidden)

    def _travelling(self) -> list[str]:
        return [COLLECTIVE, PERSONAL] if self.joint_private_init else [COLLECTIVE]

    def _start(self, shift_name: str, hidden: int, prefix: str) -> Tensors:
        return shifts.start(self.ranks[shift_name], hidden, self.seed, shift_name, prefix)
