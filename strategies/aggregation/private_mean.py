"""The mean of clipped updates with Gaussian noise: one round of user-level differential privacy.

DP-FedAvg with equal weights and a fixed denominator (McMahan et al., arXiv 1710.06963). An update is what a client's
training changed, u_k = θ_k − θ, with all tensors as one vector in the method's wire form (`Method.to_wire`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from strategies.method import Tensors

_STEP = 0.2
"""η_C of the source."""


@dataclass(frozen=True)
class PrivateMean:
    """What a round releases, and what the server alone knows of it."""

    change: Tensors
    """(Σ_k min(1, C/‖u_k‖) u_k + ξ)/n, fp32."""
    below: int
    """Number of updates with ‖u_k‖ ≤ C. Not private: only `next_clip` may use it."""


def clipped(update: Tensors, clip: float) -> tuple[Tensors, bool]:
    """Return min(1, C/‖u‖) u in float64, and whether ‖u‖ ≤ C."""
    vectors = {name: value.double() for name, value in update.items()}
    norm = math.sqrt(sum(float(value.square().sum()) for value in vectors.values()))
    if norm <= clip:
        return vectors, True
    return {name: value * (clip / norm) for name, value in vectors.items()}, False


def noisy(vectors: Tensors, deviation: float, generator: torch.Generator) -> Tensors:
    """Return vectors plus N(0, deviation²) in every number, drawn in the order of names."""
    if not deviation:
        return vectors
    noise = {
        name: torch.randn(vectors[name].shape, generator=generator, dtype=torch.float64) for name in sorted(vectors)
    }
    return {name: value + deviation * noise[name] for name, value in vectors.items()}


def private_mean(
    updates: Iterable[Tensors], like: Tensors, clip: float, multiplier: float, count: int, generator: torch.Generator
) -> PrivateMean:
    """Return the noisy mean of clipped updates.

    The denominator is n, however many came: a missing update counts as 0. Replacing one user's data moves the sum by at
    most 2C, so the noise z·C is z/2 times the sensitivity.

    Args:
        updates: u_k, one at a time.
        like: Tensors of the updates' names and shapes.
        clip: C.
        multiplier: z.
        count: n, the number of users that were asked.
        generator: For ξ ~ N(0, (zC)² I).
    """
    total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in like.items()}
    below = 0
    for update in updates:
        vectors, short = clipped(update, clip)
        below += short
        for name, value in vectors.items():
            total[name] += value
    summed = noisy(total, multiplier * clip, generator)
    return PrivateMean({name: (value / count).float() for name, value in summed.items()}, below)


def next_clip(
    clip: float, quantile: float, below: int, came: int, count: int, deviation: float, generator: torch.Generator
) -> float:
    """Return the next round's C: C·exp(−η(b̃ − γ)), η = 0.2 (Andrew et al., arXiv 1905.03871, equation 2).

    b̃ = ½ + (Σ(b_k − ½) + N(0, σ_b²))/n, b_k = 1 if ‖u_k‖ ≤ C. More short updates than γ make C smaller.

    Args:
        clip: C.
        quantile: γ.
        below: Σ b_k.
        came: Number of updates.
        count: n, the number of users that were asked.
        deviation: σ_b.
        generator: For the noise.
    """
    noise = deviation * float(torch.randn(1, generator=generator, dtype=torch.float64)) if deviation else 0.0
    share = 0.5 + (below - came / 2 + noise) / count
    return clip * math.exp(-_STEP * (share - quantile))
