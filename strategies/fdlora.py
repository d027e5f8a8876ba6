"""FDLoRA: a personal and a global LoRA per client, trained separately and fused by a gradient-free search.

Qi et al., arXiv 2406.07925, Algorithm 1. Its learning rates, outer rate and momentum, rank, modules and H are not
known; configs/methods/fdlora.toml lists the values used instead and their sources.
"""

import importlib.util
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from configs.seeds import derive_seed
from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.aggregation.optimizers import ServerOptimizer
from strategies.bounds import check_at_least, check_outer_step
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, KEPT, PRIVATE, SHARED, LoraSettings
from strategies.method import (
    Aggregator,
    BackboneShape,
    Fit,
    FitResult,
    Method,
    Tensors,
    TrainRequest,
    TrainResult,
    travelling,
)

_FUSION = "private_fusion.w"
_VELOCITY = "server_momentum_"
_LIMIT = 1.5


class FdLora(Method):
    """W ← W + (α/r)(w₁B_s + w₂B_p)(w₁A_s + w₂A_p), θ_s = (A_s, B_s) global, θ_p = (A_p, B_p) and w the user's own.

    1. In the opening round every client trains θ_p; 2. θ_s ← their mean; 3. in each round a client trains from θ_s, and
    the server takes an SGD step with Nesterov momentum along the mean of θ_s − θ_s,i; every H rounds the client keeps
    the result of its training as θ_p. 4. AdaFusion searches for w. A target user joins after stage 1: it downloads θ_s
    once, trains θ_p, and fuses, so that H does not affect the evaluation. Means are weighted by examples, as in all
    methods here.
    """

    name = "fdlora"
    first_round = 0
    personal_keys = ("settings.fusion_trials", "settings.fusion_batches", "settings.fusion_penalty")

    def __init__(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        targets: list[str],
        blocks: list[int] | str,
        sync_every: int,
        outer_lr: float,
        outer_momentum: float,
        fusion_trials: int,
        fusion_batches: int,
        fusion_penalty: float,
        seed: int,
    ) -> None:
        """Take the settings; those not listed below are described in `LoraSettings`.

        Args:
            sync_every: H.
            outer_lr: Learning rate of the server's steps.
            outer_momentum: Momentum of the server's steps.
            fusion_trials: Number of w that the search may try; the first three are θ_s only, θ_p only and half of each.
            fusion_batches: Number of local batches for a trial's loss.
            fusion_penalty: λ; a trial minimises loss + λ·mean|w|.
        """
        self.lora = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        check_at_least(1, sync_every=sync_every, fusion_batches=fusion_batches)
        check_at_least(3, fusion_trials=fusion_trials)
        check_at_least(0, fusion_penalty=fusion_penalty)
        check_outer_step(outer_lr, outer_momentum)
        self.sync_every = sync_every
        self.outer_lr, self.outer_momentum = outer_lr, outer_momentum
        self.fusion_trials, self.fusion_batches, self.fusion_penalty = fusion_trials, fusion_batches, fusion_penalty
        self.seed = seed
        self._begin: Tensors = {}

    def check(self, backbone: BackboneShape) -> None:
        """Refuse modules that the backbone does not have, and an environment without nevergrad."""
        self.lora.on(backbone)
        if importlib.util.find_spec("nevergrad") is None:
            raise ValueError("fdlora searches its fusion with nevergrad; pip install 'fedperfit[fdlora]'")

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0, from which every θ_p starts too."""
        return lora.start(self.lora.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)

    def server_aggregator(self, state: Tensors, round_number: int) -> Aggregator:
        """Return the mean of θ_p for the opening round, then the outer optimiser."""
        return OuterStep(state, self.outer_lr, self.outer_momentum) if round_number else TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        adapter = self.lora.on(backbone)
        self._begin = lora.start(adapter, backbone, PRIVATE, self.seed, COLLECTIVE)
        return lora.attach(model, {COLLECTIVE: adapter})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train θ_p in the opening round, then a copy of θ_s."""
        if request.round == 0:
            _, result = self._train_personal(adapter, request.fit)
            return TrainResult(adapter.state(COLLECTIVE, SHARED), result, adapter.state(COLLECTIVE, KEPT))
        trained = lora.train_shared(adapter, request)
        sync = request.round % self.sync_every == 0
        return TrainResult(trained.shared, trained.fit, adapter.state(COLLECTIVE, KEPT) if sync else None)

    def client_personalize(self, adapter: LoraAdapters, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train θ_p and fuse it with θ_s."""
        private, result = self._train_personal(adapter, fit)
        return private | {_FUSION: self._fuse(adapter, shared, private, fit)}, result

    def client_load(self, adapter: LoraAdapters, shared: Tensors, private: Tensors | None) -> None:
        """Set the fused adapter, or θ_s if there is no θ_p."""
        w = private[_FUSION] if private else torch.tensor([1.0, 0.0])
        adapter.load(COLLECTIVE, fused(shared, private or self._begin, w), SHARED)
        adapter.use(COLLECTIVE)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return P + 2."""
        return lora.parameters(self.lora.on(backbone), backbone) + 2

    def _train_personal(self, adapter: LoraAdapters, fit: Fit) -> tuple[Tensors, FitResult]:
        adapter.load(COLLECTIVE, self._begin, PRIVATE)
        adapter.use(COLLECTIVE)
        result = fit(adapter.trainable(COLLECTIVE))
        return adapter.state(COLLECTIVE, PRIVATE), result

    def _fuse(self, adapter: LoraAdapters, shared: Tensors, private: Tensors, fit: Fit) -> torch.Tensor:
        """AdaFusion: search for the w in [−1.5, 1.5]² with the least loss + λ·mean|w|."""
        import nevergrad  # an extra, and a second of imports that the server need not spend

        tried: list[tuple[float, torch.Tensor]] = []

        def objective(point: np.ndarray) -> float:
            w = torch.from_numpy(point).float()
            adapter.load(COLLECTIVE, fused(shared, private, w), SHARED)
            tried.append((fit.loss(self.fusion_batches) + self.fusion_penalty * float(w.abs().mean()), w))
            return tried[-1][0]

        space = nevergrad.p.Array(init=[0.5, 0.5]).set_bounds(-_LIMIT, _LIMIT)
        space.random_state.seed(derive_seed(self.seed, "fusion") % 2**32)
        search = nevergrad.optimizers.NGOpt(parametrization=space, budget=self.fusion_trials)
        for begin in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
            search.suggest(np.array(begin))
        with warnings.catch_warnings():
            # With a small budget nevergrad warns about the optimiser that it chose itself.
            warnings.simplefilter("ignore")
            search.minimize(objective)
        # The search may recommend a point other than the best one it tried.
        return min(tried, key=lambda trial: trial[0])[1]


def fused(shared: Tensors, private: Tensors, w: torch.Tensor) -> Tensors:
    """Return w₁θ_s + w₂θ_p, for A and B separately, named like θ_s."""
    return {name: w[0] * value + w[1] * private[name.replace(SHARED, PRIVATE, 1)] for name, value in shared.items()}


class OuterStep:
    """θ_s ← θ_s + η(Δ + μv), v ← μv + Δ, Δ = Σp_k(θ_s,k − θ_s): SGD with Nesterov momentum, in PyTorch's form."""

    per_user = False

    def __init__(self, state: Tensors, lr: float, momentum: float) -> None:
        """Start a round; `lr` is η, `momentum` μ."""
        self._state, self._lr, self._momentum = state, lr, momentum
        self._mean = TensorMean(state)
        self.expected = self._mean.expected

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's θ_s,k."""
        self._mean.add(user, shared, num_examples)

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Take the step and return the state."""
        mean, _ = self._mean.result()
        shared = travelling(self._state)
        memory = {name.replace(_VELOCITY, "shared_", 1): v for name, v in self._state.items() if name not in shared}
        change = {name: mean[name] - value for name, value in shared.items()}
        steps, memory = ServerOptimizer("nesterov", self._lr, self._momentum).step(change, memory)
        velocity = {name.replace("shared_", _VELOCITY, 1): value for name, value in memory.items()}
        return {name: value + steps[name] for name, value in shared.items()} | velocity, {}
