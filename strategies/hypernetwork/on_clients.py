"""`design=client`: Ψ travels and is averaged, and no profile leaves its client."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from configs.seeds import derive_seed
from strategies.aggregation.mean import TensorMean
from strategies.client_tools import ClientTools
from strategies.hypernetwork.generated import Generated
from strategies.hypernetwork.generator import ADAPTER, Generator
from strategies.hypernetwork.outputs import Output
from strategies.method import Aggregator, BackboneShape, Tensors, TrainRequest, TrainResult, travelling

WEIGHTS = "shared_network."
"""Prefix of Ψ's weights."""
_KEPT = "private_profile"


class OnClients:
    """The server's part, and the clients', where every client has Ψ."""

    first_round = 1
    alike = True

    def __init__(
        self,
        generator: Generator,
        output: Output,
        own_profile: Callable[[ClientTools], torch.Tensor],
        width: Callable[[BackboneShape], int],
        seed: int,
    ) -> None:
        """Take Ψ, what it writes, a client's own profile, a profile's width for a backbone, and the run's seed."""
        self._generator, self._output, self._own_profile = generator, output, own_profile
        self._width, self._seed = width, seed

    def send(self, state: Tensors, _user: int | None) -> Tensors:
        """Return Ψ."""
        return travelling(state)

    def controls(self, state: Tensors, user: int, _other: int | None) -> Mapping[str, Callable[[], Tensors]]:
        """Return what makes the adapter of a random profile: the server knows no other."""
        network = self._generator.of(state).network
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "random profile", user))
        random = torch.randn(network.width, generator=generator)
        random = random * network.width**0.5 / random.norm()
        return {"random profile": partial(self._generator.adapter, state, random)}

    def aggregator(self, state: Tensors, _round_number: int) -> Aggregator:
        """Return the mean of the clients' Ψ."""
        return TensorMean(state)

    def train(self, adapter: Generated, request: TrainRequest) -> TrainResult:
        """Train Ψ on the client's own profile, through the adapter that it writes."""
        built, profile = self._generator.of({}), request.client_state.get(_KEPT)
        network, profile = built.network, self._own_profile(request.fit.client) if profile is None else profile
        network.load_state_dict({name.removeprefix(WEIGHTS): value for name, value in request.shared.items()})
        self._output.load(adapter.inner, self._generator.adapter(request.shared, profile), ADAPTER)
        places = self._output.places(adapter.inner)

        def write() -> Tensors:
            return self._output.tensors(network(profile), built.shapes)

        with adapter.written_by(write, places, network):
            result = request.fit(list(network.parameters()))
        weights = {f"{WEIGHTS}{name}": value.detach().clone() for name, value in network.state_dict().items()}
        return TrainResult(weights, result, {_KEPT: profile})

    def received(self, shared: Tensors, client: ClientTools | None) -> Tensors:
        """Return Ψ(e_u), Ψ of an empty profile without a client, or the adapter that was sent in its place."""
        if any(name.startswith(ADAPTER) for name in shared):
            return shared
        profile = torch.zeros(self._generator.of(shared).network.width) if client is None else self._own_profile(client)
        return self._generator.adapter(shared, profile)

    def parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers a client sends back: Ψ's."""
        built = self._generator.build(backbone, self._width(backbone))
        return sum(value.numel() for value in built.network.parameters())
