"""FedReFT: every client keeps a personal shift and mixes in the geometric median of all other clients' shifts.

arXiv 2508.20295; its exact settings are not known. Choices made here: the median is taken over (W, b) of all sites
together, after aligning every client's shift to one frame; R, W and b are then averaged with the final weights of
Weiszfeld's iterations, and retracted. The weight of the received shift is the local loss of the client's own shift
divided by the sum of the two local losses: the worse the own shift, the more of the received one is taken.
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
_START, _USER, _ROUND = "server_start", "server_user", "server_round"
_KEY = "rank.shared + rank.private"
_ITERATIONS, _TOLERANCE = 100, 1e-9


class FedReft(Method):
    """h ↦ φ_i(h) at every site, φ_i of rank r⁽¹⁾ + r⁽²⁾, as large as PerFit's two shifts together."""

    name = "fedreft"
    first_round = 1

    def __init__(
        self,
        sites: list[int],
        positions: str,
        rank_shared: int | list[int],
        rank_private: int | list[int],
        loss_batches: int,
        seed: int,
    ) -> None:
        """Take the settings.

        Args:
            sites: See `PerFit`.
            positions: See `PerFit`.
            rank_shared: r⁽¹⁾.
            rank_private: r⁽²⁾.
            loss_batches: Number of local batches for the two losses of the mixing weight.
            seed: The run's seed.
        """
        self.sites = shifts.checked_sites(sites)
        self.positions = Positions.parse(positions)
        self.ranks = shifts.summed_ranks(self.sites, _KEY, rank_shared, rank_private)
        if loss_batches < 1:
            raise ValueError(f"settings.loss_batches={loss_batches}: expected at least 1")
        self.loss_batches = loss_batches
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a site beyond the last block and a rank above d."""
        shifts.check_fit(_KEY, self.ranks, backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the common start, the identity at every site; its R are the frame of all shifts on the server."""
        return shifts.start(self.ranks, backbone.hidden, self.seed, _STAGE, _START)

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return the geometric median of all other users' shifts, or the start if there are none."""
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

    def server_aggregator(self, state: Tensors, round_number: int) -> "LastShifts":
        """Return the aggregator that keeps every client's last shift."""
        return LastShifts(state, round_number)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach φ to every site."""
        return SiteShifts(model, self.positions, backbone.hidden, {_STAGE: self.ranks})

    def client_train(self, adapter: SiteShifts, request: TrainRequest) -> TrainResult:
        """Mix the received shift into the client's own, train, send the result and keep it."""
        received = {name.replace(_SENT, _KEPT): value for name, value in request.shared.items()}
        mixed = self._mix(adapter, request.client_state, received, request.fit) if request.client_state else received
        shifts.load(adapter, _STAGE, mixed, _KEPT)
        result = shifts.train(adapter, [_STAGE], request.fit)
        return TrainResult(shifts.state(adapter, _STAGE, "shared_own"), result, shifts.state(adapter, _STAGE, _KEPT))

    def client_personalize(self, adapter: SiteShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train a newcomer's shift from the geometric median of all clients' shifts."""
        self.client_load(adapter, shared, None)
        result = shifts.train(adapter, [_STAGE], fit)
        return shifts.state(adapter, _STAGE, _OWN), result

    def client_load(self, adapter: SiteShifts, shared: Tensors, private: Tensors | None) -> None:
        """Set the user's own shift, or the median if there is none."""
        if private:
            shifts.load(adapter, _STAGE, private, _OWN)
        else:
            shifts.load(adapter, _STAGE, shared, _SENT)

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2rd + r), r = r⁽¹⁾ + r⁽²⁾."""
        return shifts.parameters(self.ranks, backbone.hidden)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2rd + r), r = r⁽¹⁾ + r⁽²⁾."""
        return shifts.parameters(self.ranks, backbone.hidden)

    def _mix(self, adapter: SiteShifts, own: Tensors, received: Tensors, fit: Fit) -> Tensors:
        losses = []
        for tensors in (own, received):
            shifts.load(adapter, _STAGE, tensors, _KEPT)
            losses.append(fit.loss(self.loss_batches))
        weight = losses[0] / sum(losses) if sum(losses) else 0.5
        mixed: Tensors = {}
        for site in self.sites:
            R, W, b = shifts.triple(received, f"{_KEPT}.{site}")
            aligned = align(*shifts.triple(own, f"{_KEPT}.{site}"), R)
            pairs = zip((R, W, b), aligned, strict=True)
            mixed |= shifts.named(f"{_KEPT}.{site}", retract(*(weight * a + (1 - weight) * c for a, c in pairs)))
        return mixed

    def _point(self, state: Tensors, prefix: str) -> torch.Tensor:
        parts = [shifts.triple(state, f"{prefix}.{site}")[1:] for site in self.sites]
        return torch.cat([value.double().flatten() for pair in parts for value in pair])


class LastShifts:
    """Keeps every client's last shift, aligned to the start's frame, which does not change its function."""

    per_user = True

    def __init__(self, state: Tensors, round_number: int) -> None:
        """Start a round."""
        self._state = dict(state)
        self._round = round_number
        self._replies = 0
        self.expected = {
            name.replace(_START, "shared_own"): value for name, value in state.items() if name.startswith(_START)
        }

    def add(self, user: int, shared: Tensors, _num_examples: int) -> None:
        """Replace one client's last shift."""
        self._state[f"{_ROUND}.{user}"] = torch.tensor(float(self._round))
        for name in [name for name in shared if name.endswith(".R")]:
            site = name.split(".")[1]
            R, W, b = (value.double() for value in shifts.triple(shared, f"shared_own.{site}"))
            aligned = align(R, W, b, self._state[f"{_START}.{site}.R"].double())
            self._state |= shifts.named(f"{_USER}.{user}.{site}", [value.float() for value in aligned])
        self._replies += 1

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the state, and how many rounds old the shifts are that the median is taken over.

        Raises:
            ValueError: No client replied.
        """
        if not self._replies:
            raise ValueError("a round without a single reply cannot be aggregated")
        ages = [self._round - float(value) for name, value in self._state.items() if name.startswith(f"{_ROUND}.")]
        return self._state, {"mean_age": sum(ages) / len(ages), "largest_age": max(ages)}


def geometric_median_weights(points: torch.Tensor) -> torch.Tensor:
    """Return the weights, summing to 1, whose weighted mean of the points is their geometric median (Weiszfeld).

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
