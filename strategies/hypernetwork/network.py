"""The network Ψ from a profile's embedding to the parameters of an adapter.

Profile-to-PEFT (Tan et al., arXiv 2510.16282), as in its released code, which is text-to-LoRA's (arXiv 2506.06105).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from configs.seeds import derive_seed

SLOPE_RATE = 0.125
"""See `Hypernetwork`."""


@dataclass(frozen=True)
class NetworkSize:
    """The sizes that a config chooses."""

    latent: int
    """ℓ, the width of the trunk; a multiple of 4."""
    head: int
    """Width of what the heads read."""
    dropout: float
    """Dropout rate of the trunk while it is trained."""
    depth_bias: bool = False
    """Heads have a bias for each depth; the source has one for all depths."""
    components: int = 0
    """Principal components of profiles that have slopes at every depth; not in the source."""

    def check(self) -> None:
        """Refuse sizes that do not work.

        Raises:
            ValueError: Names the setting.
        """
        if self.latent < 4 or self.latent % 4:
            raise ValueError(f"settings.latent={self.latent}: expected a positive multiple of 4")
        if self.head < 1:
            raise ValueError(f"settings.head={self.head}: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"settings.dropout={self.dropout}: expected at least 0 and below 1")


class Hypernetwork(nn.Module):
    """e ↦ one row of numbers for every depth and kind of module.

    The profile's encoding (ℓ/2), the depth's (ℓ/4) and the kind's (ℓ/4) go side by side through a mixer and two
    residual blocks; a head of its own for each kind writes the numbers. Heads start with weight 0 and the usual initial
    adapter as their bias: at first everybody gets that adapter, and in the first step only heads learn.

    With `depth_bias` (ours) what all users have in common is the bias, and a step of rate 1 along clients' changes
    moves it exactly as federated averaging would. With one bias for all depths, every depth would first get the same.

    With `components` (ours) a row has a linear part as well, Vz, z being the components of the profile: uncorrelated,
    with mean 0 and variance 1 over the collective users. A step of rate 1 moves it by SLOPE_RATE times Σ p_u Δ_u z_uᵀ.
    Over all collective users alike this is the least squares regression of the changes Δ on z; a round has few of them
    for so many slopes.
    """

    def __init__(
        self, profile: int, depths: int, starts: Mapping[str, torch.Tensor], size: NetworkSize, seed: int
    ) -> None:
        """Draw the initial weights from the seed.

        Args:
            profile: Width of a profile's embedding, without its components.
            depths: Number of places in the backbone's depth that get an adapter.
            starts: The initial adapter of each kind of module, flat; the length is what its head writes.
            size: ℓ and the rest.
            seed: The run's seed.
        """
        super().__init__()
        latent, wide = size.latent, 4 * size.latent
        self.kinds = list(starts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "start", "hypernetwork"))
            self.profile = nn.Sequential(nn.Linear(profile, latent // 2), nn.LayerNorm(latent // 2))
            self.depth = nn.Sequential(nn.Embedding(depths, latent // 4), nn.LayerNorm(latent // 4))
            self.kind = nn.Sequential(nn.Embedding(len(starts), latent // 4), nn.LayerNorm(latent // 4))
            self.mixer = nn.Sequential(nn.Dropout(size.dropout), *_layers(latent, wide, size.dropout))
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(latent), *_layers(latent, wide, size.dropout)) for _ in range(2)
            )
            self.last = nn.Sequential(
                nn.LayerNorm(latent),
                nn.Linear(latent, wide),
                nn.SiLU(),
                nn.Dropout(size.dropout),
                nn.Linear(wide, size.head),
                nn.SiLU(),
            )
        self.weights = nn.ParameterList(torch.zeros(len(start), size.head) for start in starts.values())
        rows = depths if size.depth_bias else 1
        self.biases = nn.ParameterList(start.repeat(rows, 1) for start in starts.values())
        self.slopes = nn.ParameterList(
            torch.zeros(depths, len(start), size.components) for start in starts.values() if size.components
        )
        self.depths, self.head = depths, size.head
        self.width, self.components = profile, size.components

    def forward(self, profile: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return, for each kind of module, its numbers at every depth, [depths, length].

        Args:
            profile: The embedding and then its components, [profile + components].
        """
        every = torch.arange(self.depths)
        embedding, components = profile.split([self.width, self.components])
        encoded = self.profile(embedding).expand(self.depths, -1)
        depth = self.depth(every)
        outputs = {}
        for number, (kind, weight, bias) in enumerate(zip(self.kinds, self.weights, self.biases, strict=True)):
            of_kind = self.kind(torch.full((self.depths,), number))
            x = self.mixer(torch.cat([encoded, depth, of_kind], dim=1))
            for block in self.blocks:
                x = x + block(x)
            # Scaled, so that a rate that suits the bias does not move the weights' part many times as far.
            outputs[kind] = self.last(x) / self.head**0.5 @ weight.T + bias
            if self.components:
                outputs[kind] = outputs[kind] + SLOPE_RATE**0.5 * self.slopes[number] @ components
        return outputs


def _layers(latent: int, wide: int, dropout: float) -> list[nn.Module]:
    return [
        *(nn.Linear(latent, wide), nn.SiLU(), nn.Dropout(dropout)),
        *(nn.Linear(wide, latent), nn.SiLU(), nn.Dropout(dropout)),
    ]
