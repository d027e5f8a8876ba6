"""FedReFT: every client keeps a shift of its own and mixes into it the geometric median of all the others'.

arXiv 2508.20295; its exact settings are not known. Ours, where it is silent: the median is over (W, b) of all sites
together, after every client's R was turned into one frame; R, W and b are then averaged with the weights that
Weiszfeld's iterations end at, and retracted. The weight of what came is the own shift's share of the two local losses:
the worse the own one does here, the more of the others' is taken.
"""

from collections.abc import Mapping

import torch
from torch import nn

from strategies import shifts
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.shifts.averages import align
from strategies.shifts.positions import Positions
from strategies.shifts.shift import retract
from strategies.shifts.sites import SiteShifts

_STAGE, _SENT, _KEPT, _OWN = "personal", "shared_median", "kept_own", "private_own"
_START, _USER = "server_start", "server_user"
_ITERATIONS, _TOLERANCE = 100, 1e-9


class FedReft(Method):
    """h ↦ φ_i(h) at every site, φ_i of rank r⁽¹⁾ + r⁽²⁾, as large as PerFit's two shifts together."""

    name = "fedreft"
    first_round = 1

    def __init__(
        self, sites: list[int], positions: str, rank_shared: int, rank_private: int, loss_batches: int, seed: int
    ) -> None:
        """Take the settings.

        Args:
            sites: As in `PerFit`.
            positions: As in `PerFit`.
            rank_shared: r⁽¹⁾.
            rank_private: r⁽²⁾.
            loss_batches: Local batches that the two losses of the mixing weight are taken over.
            seed: The run's.
        """
        self.sites = shifts.checked_sites(sites)
        self.positions = Positions.parse(positions)
        self.rank = rank_shared + rank_private
        if loss_batches < 1:
            raise ValueError(f"settings.loss_batches={loss_batches}: expected at least 1")
        self.loss_batches = loss_batches
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        shifts.check_fit(self.sites, [("rank.shared + rank.private", self.rank)], backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the common start, the identity at every site; its R are the frame of everything the server holds."""
        state: Tensors = {}
        for site in self.sites:
            begin = shifts.identity(self.rank, backbone.hidden, self.seed, _STAGE, site)
            state |= shifts.named(f"{_START}.{site}", begin)
        return state

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return the geometric median of all others' shifts, the start while there are none."""
        users = {int(name.split(".")[1]) for name in state if name.startswith(f"{_USER}.")} - {user}
        prefixes = [f"{_USER}.{other}" for other in sorted(users)]
        if not prefixes:
            return {name.replace(_START, _SENT): value for name, value in state.items() if name.startswith(_START)}
        points = torch.stack([self._point(state, prefix) for prefix in prefixes])
        weights = geometric_median_weights(points)
        sent: Tensors = {}
        for site in self.sites:
            parts = [shifts.triple(state, f"{prefix}.{site}") for prefix in prefixes]
            mean = [sum(w * part[i].double() for w, part in zip(weights, parts, strict=True)) for i in range(3)]
            sent |= shifts.named(f"{_SENT}.{site}", [value.float() for value in retract(*map(torch.as_tensor, mean))])
        return sent

    def server_aggregator(self, state: Tensors, _round_number: int) -> "LastShifts":
        """Return what keeps everybody's last shift."""
        return LastShifts(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Put φ on every site."""
        return SiteShifts(model, self.sites, self.positions, backbone.hidden, {_STAGE: self.rank})

    def client_train(self, adapter: SiteShifts, request: TrainRequest) -> TrainResult:
        """Mix the others' shift into the own one, train, send it and keep it."""
        received = {name.replace(_SENT, _KEPT): value for name, value in request.shared.items()}
        mixed = self._mix(adapter, request.client_state, received, request.fit) if request.client_state else received
        shifts.load(adapter, _STAGE, mixed, _KEPT)
        result = shifts.train(adapter, [_STAGE], request.fit)
        return TrainResult(shifts.state(adapter, _STAGE, "shared_own"), result, shifts.state(adapter, _STAGE, _KEPT))

    def client_personalize(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train a newcomer's shift from the geometric median of all."""
        self.client_load(adapter, shared, None)
        result = shifts.train(adapter, [_STAGE], fit)
        return shifts.state(adapter, _STAGE, _OWN), result

    def client_load(self, adapter: SiteShifts, shared: Tensors, private: Tensors | None) -> None:
        """Set the user's own shift, else the median."""
        if private:
            shifts.load(adapter, _STAGE, private, _OWN)
        else:
            shifts.load(adapter, _STAGE, shared, _SENT)

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2rd + r), r = r⁽¹⁾ + r⁽²⁾."""
        return shifts.parameters(self.sites, self.rank, backbone.hidden)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2rd + r), r = r⁽¹⁾ + r⁽²⁾."""
        return shifts.parameters(self.sites, self.rank, backbone.hidden)

    def _mix(self, adapter: SiteShifts, own: Tensors, received: Tensors, fit: Fit) -> Tensors:
        losses = []
        for tensors in (own, received):
            shifts.load(adapter, _STAGE, tensors, _KEPT)
            losses.append(fit.loss(self.loss_batches))
        weight = losses[0] / sum(losses) if sum(losses) else 0.5
        mixed: Tensors = {}
        for site in self.sites:
            R, W, b = shifts.triple(received, f"{_KEPT}.{site}")
            turned = align(*shifts.triple(own, f"{_KEPT}.{site}"), R)
            pairs = zip((R, W, b), turned, strict=True)
            mixed |= shifts.named(f"{_KEPT}.{site}", retract(*(weight * a + (1 - weight) * c for a, c in pairs)))
        return mixed

    def _point(self, state: Tensors, prefix: str) -> torch.Tensor:
        parts = [shifts.triple(state, f"{prefix}.{site}")[1:] for site in self.sites]
        return torch.cat([value.double().flatten() for pair in parts for value in pair])


class LastShifts:
    """Keeps every client's last shift, written in the start's frame: the function is the client's own."""

    per_user = True

    def __init__(self, state: Tensors) -> None:
        """Start a round."""
        self._state = dict(state)
        self._replies = 0
        self.expected = {
            name.replace(_START, "shared_own"): value for name, value in state.items() if name.startswith(_START)
        }

    def add(self, user: int, shared: Tensors, _num_examples: int) -> None:
        """Take one client's shift in place of its last."""
        for name in [name for name in shared if name.endswith(".R")]:
            site = name.split(".")[1]
            R, W, b = (value.double() for value in shifts.triple(shared, f"shared_own.{site}"))
            turned = align(R, W, b, self._state[f"{_START}.{site}.R"].double())
            self._state |= shifts.named(f"{_USER}.{user}.{site}", [value.float() for value in turned])
        self._replies += 1

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the state.

        Raises:
            ValueError: No client replied.
        """
        if not self._replies:
            raise ValueError("a round without a single reply cannot be aggregated")
        return self._state, {}


def geometric_median_weights(points: torch.Tensor) -> torch.Tensor:
    """Return the weights, summing to 1, with which the points' mean is their geometric median (Weiszfeld).

    Args:
        points: [n, size], float64.
    """
    weights = torch.full((len(points),), 1 / len(points), dtype=points.dtype)
    for _ in range(_ITERATIONS):
        distances = (points - weights @ points).norm(dim=1)
        inverse = 1 / distances.clamp(min=_TOLERANCE * max(float(points.norm(dim=1).max()), _TOLERANCE))
        before, weights = weights, inverse / inverse.sum()
        if float((weights - before).abs().max()) < _TOLERANCE:
            break
    return weights
