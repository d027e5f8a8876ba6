"""`design=server`: users send their profiles once, get adapters, train them and send them back."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from configs.seeds import derive_seed
from strategies.aggregation.optimizers import ServerOptimizer
from strategies.client_tools import ClientTools
from strategies.hypernetwork.generated import Generated
from strategies.hypernetwork.generator import ADAPTER, Generator
from strategies.hypernetwork.outputs import Output
from strategies.hypernetwork.server_profiles import SENT_PROFILE, Profiles, profile_of, random_profile, read
from strategies.hypernetwork.server_steps import PullThrough
from strategies.method import Aggregator, BackboneShape, FitResult, Tensors, TrainRequest, TrainResult


class AtServer:
    """The server's part, and the clients', where Ψ stays at the server."""

    first_round = 0
    alike = False

    def __init__(
        self,
        generator: Generator,
        output: Output,
        own_profile: Callable[[ClientTools], torch.Tensor],
        optimizer: ServerOptimizer,
        noise: float,
        seed: int,
    ) -> None:
        """Take Ψ, what it writes, a client's own profile, the server's optimiser, the profiles' noise and the seed."""
        self._generator, self._output, self._own_profile = generator, output, own_profile
        self._optimizer, self._noise, self._seed = optimizer, noise, seed

    def send(self, state: Tensors, user: int | None) -> Tensors:
        """Return Ψ(e_u), the mean profile's for a user without one."""
        return self._generator.adapter(state, self._reads(state, profile_of(state, user)))

    def controls(self, state: Tensors, user: int, other: int | None) -> Mapping[str, Callable[[], Tensors]]:
        """Return what makes the adapters of a random profile, the mean one, and another newcomer's."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "random profile", user))
        profiles = {
            "random profile": self._reads(state, random_profile(state, generator)),
            "mean profile": self._reads(state, None),
        }
        if other is not None:
            profiles["another's profile"] = self._reads(state, profile_of(state, other))
        return {name: partial(self._generator.adapter, state, profile) for name, profile in profiles.items()}

    def aggregator(self, state: Tensors, round_number: int) -> Aggregator:
        """Return the aggregator of the opening, which keeps profiles, or of a round."""
        built = self._generator.of(state)
        if round_number == 0:
            return Profiles(state, built.network.width, built.network.components, self._noise)
        expected = self._generator.adapter(state, self._reads(state, None))

        def read_of(user: int) -> torch.Tensor:
            return self._reads(state, profile_of(state, user))

        def generate(weights: Tensors, profile: torch.Tensor) -> Tensors:
            return self._generator.tensors(built, weights, profile)

        return PullThrough(state, read_of, generate, self._output.trained, expected, self._optimizer)

    def train(self, adapter: Generated, request: TrainRequest) -> TrainResult:
        """Send the profile in the opening, then train θ_u."""
        client = request.fit.client
        if request.round == 0:
            return TrainResult({SENT_PROFILE: self._own_profile(client)}, FitResult(len(client.history), 0))
        self._output.load(adapter.inner, request.shared, ADAPTER)
        result = self._output.train(adapter.inner, request.fit)
        return TrainResult(self._output.state(adapter.inner, ADAPTER), result)

    def received(self, shared: Tensors, _client: ClientTools | None) -> Tensors:
        """Return the adapter in what a user was sent."""
        return shared

    def parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers a client sends back: an adapter's."""
        return self._output.parameters(backbone)

    def _reads(self, state: Tensors, profile: torch.Tensor | None) -> torch.Tensor:
        network = self._generator.of(state).network
        return read(state, profile, network.width, network.components)
