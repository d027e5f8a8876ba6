"""Profile-to-PEFT, federated: a network turns a user's profile into an adapter, so that a newcomer trains nothing.

Tan et al., arXiv 2510.16282. Federated training is our extension, after pFedHN (Shamsian et al., ICML 2021).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import nn

from configs.seeds import derive_entropy
from strategies.aggregation.optimizers import ServerOptimizer
from strategies.bounds import check_at_least, check_outer_step, check_written
from strategies.client_tools import ClientTools
from strategies.hypernetwork.at_server import AtServer
from strategies.hypernetwork.generated import Generated
from strategies.hypernetwork.generator import ADAPTER, SHAPES, Generator
from strategies.hypernetwork.network import NetworkSize
from strategies.hypernetwork.on_clients import WEIGHTS, OnClients
from strategies.hypernetwork.outputs import LoraOutput, Output, ShiftOutput
from strategies.hypernetwork.profile import ProfileSettings, profile_embedding
from strategies.hypernetwork.server_profiles import COMPONENTS, MEAN, SPREAD
from strategies.hypernetwork.server_steps import NETWORK
from strategies.lora.common import LoraSettings
from strategies.method import Aggregator, BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult

_RECEIVED, _OWN = "kept_adapter", "private_adapter"


class ProfileToPeft(Method):
    """θ_u = Ψ(e_u): e_u embeds user u's profile, θ_u is a LoRA or a shift.

    `design=server`: every user sends e_u once, gets θ_u, trains it and sends it back; the server pulls the change
    through Ψ. `design=client`: Ψ travels and is averaged, and e_u never leaves its client.
    """

    name = "p2p"
    personal_keys = ("settings.refine",)

    def __init__(
        self,
        design: Literal["server", "client"],
        output: Literal["shift", "lora"],
        latent: int,
        head: int,
        dropout: float,
        depth_bias: bool,
        components: int,
        embedder: str,
        items: int,
        contents: Literal["answers", "items", "both"],
        summary_tokens: int,
        noise: float,
        refine: bool,
        rank: int,
        alpha: int,
        targets: list[str],
        blocks: list[int] | str,
        outer_optimizer: Literal["momentum", "nesterov", "adam", "yogi"],
        outer_lr: float,
        outer_momentum: float,
        sites: list[int],
        positions: str,
        rank_private: int | list[int],
        seed: int,
    ) -> None:
        """Take the settings.

        Args:
            design: Where Ψ is.
            output: What it writes: a shift at `sites` of rank `rank_private`, or a LoRA, for which `rank`, `alpha`,
                `targets` and `blocks` are those of `LoraSettings`.
            latent: ℓ.
            head: Width of what Ψ's heads read.
            dropout: Of Ψ, in `design=client`; the server's network is never trained with noise.
            depth_bias: Heads have a bias for each depth.
            components: Principal components of profiles that have slopes, in `design=server`.
            embedder: See `ProfileSettings`; likewise `items`, `contents`, `summary_tokens`.
            items: Items in a profile.
            contents: What a profile shows of the history.
            summary_tokens: Length of a profile's summary.
            noise: Standard deviation of Gaussian noise that a client adds to each number of e_u, which has length
                √width, before it is sent. It follows from `ClientTools.secret`.
            refine: Stage 2 trains θ_u further; if false, a newcomer trains nothing.
            rank: r of a LoRA.
            alpha: α of a LoRA.
            targets: Modules of a LoRA.
            blocks: Blocks of a LoRA.
            outer_optimizer: The server's step.
            outer_lr: Its rate.
            outer_momentum: Its momentum.
            sites: Of a shift.
            positions: Of a shift.
            rank_private: Of a shift.
            seed: The run's seed.

        Raises:
            ValueError: A setting is invalid for every backbone.
        """
        at_server = design == "server"
        check_at_least(0, items=items, summary_tokens=summary_tokens, noise=noise, components=components)
        # Only a server has the collective users' profiles.
        self.size = NetworkSize(latent, head, dropout, depth_bias, components if at_server else 0)
        self.size.check()
        if not items and (contents == "items" or summary_tokens):
            raise ValueError("settings.items=0: a profile of items, or a summary, needs some")
        check_outer_step(outer_lr, outer_momentum, outer_optimizer)
        if noise and not at_server:
            raise ValueError(f"settings.noise={noise}: with design='client' no profile is sent")
        self.embedder, self.noise, self.refine = embedder, noise, refine
        self.profile = ProfileSettings(embedder, items, contents, summary_tokens)
        self.output: Output = (
            ShiftOutput(sites, rank_private, positions)
            if output == "shift"
            else LoraOutput(LoraSettings(rank, alpha, 0.0, tuple(targets), blocks))
        )
        self._generator = Generator(self.output, self.size, seed, NETWORK if at_server else WEIGHTS)
        optimizer = ServerOptimizer(outer_optimizer, outer_lr, outer_momentum)
        self._design = (
            AtServer(self._generator, self.output, self._own_profile, optimizer, noise, seed)
            if at_server
            else OnClients(self._generator, self.output, self._own_profile, self.profile.width, seed)
        )
        self.first_round, self.sends_alike = self._design.first_round, self._design.alike
        self.introduces, self.trains_newcomers = at_server, refine
        self._own = _RECEIVED if at_server and not refine else _OWN
        """Prefix of what a user keeps: as received, or its own."""

    def check(self, backbone: BackboneShape) -> None:
        """Refuse an output or a summary that does not fit the backbone, and more components than a profile's width."""
        if self.size.components > (width := self.profile.width(backbone)):
            raise ValueError(f"settings.components={self.size.components}: a profile has {width} numbers")
        self.server_init(backbone)
        check_written(backbone, summary_tokens=self.profile.summary_tokens)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return Ψ's initial weights, under which everybody gets the usual initial adapter."""
        return self._generator.state(self._generator.build(backbone, self.profile.width(backbone)))

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return Ψ(e_u), the mean profile's for a user without one; with `design=client` Ψ itself."""
        return self._design.send(state, user)

    def server_controls(self, state: Tensors, user: int, other: int | None) -> Mapping[str, Callable[[], Tensors]]:
        """Return functions that make the adapters of other profiles: a random one, the mean, another newcomer's.

        With `design=client` only a random one, and none with `refine`, which leaves no quality to compare with.
        """
        return {} if self.sends_alike and self.refine else self._design.controls(state, user, other)

    def server_keeps(self, state: Tensors) -> Tensors:
        """Return Ψ and what its input is made with, with which newcomers of a later run are served."""
        return {
            name: value
            for name, value in state.items()
            if name.startswith((NETWORK, SHAPES)) or name in (MEAN, SPREAD, COMPONENTS)
        }

    def server_aggregator(self, state: Tensors, round_number: int) -> Aggregator:
        """Return the aggregator of the opening, which keeps profiles, or of a round."""
        return self._design.aggregator(state, round_number)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> Generated:
        """Attach the adapter that Ψ writes."""
        self._generator.build(backbone, self.profile.width(backbone))
        return Generated(self.output.attach(model, backbone))

    def client_train(self, adapter: Generated, request: TrainRequest) -> TrainResult:
        """Send the profile in the opening; then train θ_u, or Ψ on the client's own profile."""
        return self._design.train(adapter, request)

    def client_personalize(self, adapter: Generated, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Keep θ_u, trained further if `refine` says so."""
        self.output.load(adapter.inner, self._design.received(shared, fit.client), ADAPTER)
        result = self.output.train(adapter.inner, fit) if self.refine else FitResult(0, 0)
        return self.output.state(adapter.inner, self._own), result

    def client_load(self, adapter: Generated, shared: Tensors, private: Tensors | None) -> None:
        """Set θ_u: what the user keeps, or was sent; Ψ of an empty profile if Ψ itself was sent."""
        if private:
            self.output.load(adapter.inner, private, self._own)
        else:
            self.output.load(adapter.inner, self._design.received(shared, None), ADAPTER)

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return the adapter's size, or Ψ's with `design=client`."""
        return self._design.parameters(backbone)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return the adapter's size."""
        return self.output.parameters(backbone)

    def _own_profile(self, client: ClientTools) -> torch.Tensor:
        """Return e_u, with noise if it is to be sent."""
        profile = profile_embedding(client, self.profile, self._generator.of({}).network.width)
        if not self.noise or not client.history:
            return profile
        # The same profile has the same noise whenever it is asked for: averaging many would remove it.
        texts = "\n".join(f"{item.source}\n{item.target}" for item in client.history)
        generator = np.random.default_rng(derive_entropy(client.secret(), "profile noise", texts))
        return profile + self.noise * torch.from_numpy(generator.standard_normal(len(profile), dtype=np.float32))
