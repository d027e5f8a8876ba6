"""LoFiT: a few attention heads are chosen by learned scales, and only biases on their outputs are trained.

Yin et al., NeurIPS 2024 (arXiv 2406.01563). PerFit's appendix D.5.3 trains it for each user alone. Federated, scales
are averaged, the server chooses the heads, and biases are averaged: our extension, since none is published.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies.aggregation.mean import TensorMean
from strategies.bounds import check_at_least
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.steering.heads import EditedHeads, strongest_heads

_SCALES, _BIASES, _CHOSEN = "shared_scales.A", "shared_biases.v", "shared_biases.head"
_COUNT = "server_heads"
_PRIVATE, _OWN_CHOICE = "private_biases.v", "private_biases.head"
_BEGIN = 1e-3
"""Standard deviation of A and v at the start, as in the authors' code."""
_SCALES_OF_SOURCE = 131_072
"""Numbers in A of Llama-2-7B, for which the source gives λ: the penalty is a sum over them."""


class Lofit(Method):
    """z ← (1 + A) ⊙ z + v on attention heads: A, with a penalty λ Σ|A|, finds the heads; then v is trained alone."""

    name = "lofit"
    constant_shapes = False

    def __init__(self, heads: int, l1: float, selection: float, federated: bool, rounds: int, seed: int) -> None:
        """Take the settings.

        Args:
            heads: K, heads that get a bias; a backbone with fewer has them all chosen.
            l1: λ for Llama-2-7B; smaller backbones get more, in proportion.
            selection: Share of stage 1's rounds in which A is trained and averaged, at least one round.
            federated: Without it every user trains A, chooses heads and trains v alone, and nothing is sent.
            rounds: Of stage 1.
            seed: The run's seed.

        Raises:
            ValueError: A setting is outside its range.
        """
        check_at_least(1, heads=heads)
        check_at_least(0, l1=l1)
        if not 0 < selection < 1:
            raise ValueError(f"settings.selection={selection}: expected a share of the rounds, above 0 and below 1")
        if federated and rounds < 2:
            raise ValueError(f"rounds={rounds}: lofit needs one to choose the heads and one to train their biases")
        self.heads, self.l1, self.federated, self.seed = heads, l1, federated, seed
        self.first_round = 1 if federated else None
        self.last_selection = min(max(1, round(selection * rounds)), rounds - 1)

    def check(self, backbone: BackboneShape) -> None:
        """Refuse a backbone whose heads are not known."""
        if not backbone.heads:
            raise ValueError("lofit: this backbone's config does not say how many attention heads it has")

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return a random A, if it is sent."""
        if not self.federated:
            return {}
        begin = self._begin("scales", backbone.blocks, backbone.heads * backbone.head_size)
        return {_SCALES: begin, _COUNT: torch.tensor(backbone.heads)}

    def server_aggregator(self, state: Tensors, round_number: int) -> "HeadAggregator":
        """Return the mean of A, or of v; after the last round of the selection it chooses the heads."""
        # The selection's last round may have been abandoned.
        return HeadAggregator(self, state, chooses=_SCALES in state and round_number >= self.last_selection)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> EditedHeads:
        """Attach scales and biases to every head."""
        count = min(self.heads, backbone.blocks * backbone.heads)
        return EditedHeads(model, backbone.heads, count)

    def client_train(self, adapter: EditedHeads, request: TrainRequest) -> TrainResult:
        """Train A during the selection, then the collective v."""
        self.client_load(adapter, request.shared, None)
        if _SCALES in request.shared:
            result = self._train_scales(adapter, request.fit)
            return TrainResult({_SCALES: adapter.A.detach().cpu().clone()}, result)
        bias = adapter.biases["collective"]
        result = request.fit([bias])
        return TrainResult({_BIASES: bias.detach().cpu().clone()}, result)

    def client_personalize(self, adapter: EditedHeads, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train the user's own v, on the collective one and its heads, or on heads that the user's own A chooses."""
        chosen: Tensors = {}
        selected = FitResult(0, 0)
        if not self.federated:
            self.client_load(adapter, {}, None)
            blocks, heads, size = adapter.shape
            adapter.A.data.copy_(self._begin("scales", blocks, heads * size))
            selected = self._train_scales(adapter, fit)
            strongest = strongest_heads(adapter.A.detach(), heads, len(adapter.biases["personal"]))
            chosen = {_OWN_CHOICE: strongest.to(torch.int16).cpu()}
        bias = adapter.biases["personal"]
        begin = torch.zeros_like(bias) if self.federated else self._begin("biases", *bias.shape)
        self.client_load(adapter, shared, {_PRIVATE: begin} | chosen)
        result = fit([bias])
        return {_PRIVATE: bias.detach().cpu().clone()} | chosen, replace(result, steps=selected.steps + result.steps)

    def client_load(self, adapter: EditedHeads, shared: Tensors, private: Tensors | None) -> None:
        """Set A or the collective v from `shared`, and the personal v from `private`; what is missing is 0.

        Until the server has chosen heads, a personal v is on those that A would choose.
        """
        private = private or {}
        chosen = private.get(_OWN_CHOICE, shared.get(_CHOSEN))
        if chosen is None and _SCALES in shared:
            chosen = strongest_heads(shared[_SCALES], adapter.shape[1], len(adapter.biases["personal"]))
        _set(adapter.A, shared.get(_SCALES))
        _set(adapter.get_buffer("chosen"), chosen)
        _set(adapter.biases["collective"], shared.get(_BIASES))
        _set(adapter.biases["personal"], private.get(_PRIVATE))

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return the numbers in A, which the rounds of the selection send; those after it send K · size."""
        return backbone.blocks * backbone.heads * backbone.head_size if self.federated else 0

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return K · size."""
        return min(self.heads, backbone.blocks * backbone.heads) * backbone.head_size

    def choose(self, A: torch.Tensor, heads: int) -> Tensors:
        """Return the second phase's shared tensors: the heads with the largest scales, and a random v for them."""
        chosen = strongest_heads(A, heads, min(self.heads, A.shape[0] * heads))
        return {
            _CHOSEN: chosen.to(torch.int16),
            _BIASES: self._begin("biases", len(chosen), A.shape[1] // heads),
        }

    def _begin(self, what: str, *shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "lofit", what))
        return torch.randn(*shape, generator=generator) * _BEGIN

    def _train_scales(self, adapter: EditedHeads, fit: Fit) -> FitResult:
        """Train A with the gradient of λ Σ|A| added to the loss's."""
        strength = self.l1 * _SCALES_OF_SOURCE / adapter.A.numel()
        adapter.A.requires_grad_(True)
        hook = adapter.A.register_hook(lambda gradient: gradient + strength * adapter.A.detach().sign())
        try:
            return fit([adapter.A])
        finally:
            hook.remove()


class HeadAggregator:
    """The mean of the clients' A or v, weighted by examples; at the end of the selection A gives way to v."""

    per_user = False

    def __init__(self, method: Lofit, state: Tensors, chooses: bool) -> None:
        """Start a round from the server's state; `chooses`: it is the last of the selection."""
        self._method, self._state, self._chooses = method, state, chooses
        trained = {name: value for name, value in state.items() if name in (_SCALES, _BIASES)}
        self._mean = TensorMean(trained)
        self.expected = trained

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's A or v."""
        self._mean.add(user, shared, num_examples)

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the next state."""
        mean, figures = self._mean.result()
        if not self._chooses:
            return self._state | mean, figures
        heads = int(self._state[_COUNT])
        return self._method.choose(mean[_SCALES], heads) | {_COUNT: self._state[_COUNT]}, figures


def _set(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    with torch.no_grad():
        if value is None:
            tensor.zero_()
        else:
            tensor.copy_(value)
