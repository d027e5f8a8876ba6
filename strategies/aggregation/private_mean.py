"""The mean of clipped updates with Gaussian noise: one round of user-level differential privacy.

DP-FedAvg with equal weights and a fixed denominator (McMahan et al., arXiv 1710.06963). An update is what a client's
training changed, u_k = θ_k − θ, with all tensors as one vector in the method's wire form (`Method.to_wire`).
"""

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import torch

from strategies.method import Tensors

_STEP = 0.2
"""η_C of the source."""


def clipped(update: Tensors, clip: float) -> tuple[Tensors, bool]:
    """Return min(1, C/‖u‖) u in float64, and whether ‖u‖ ≤ C."""
    vectors = {name: value.double() for name, value in update.items()}
    norm = math.sqrt(sum(float(value.square().sum()) for value in vectors.values()))
    if norm <= clip:
        return vectors, True
    return {name: value * (clip / norm) for name, value in vectors.items()}, False


def digest(vectors: Tensors) -> str:
    """Return what tells these vectors from others, so that other vectors get other noise."""
    hashed = hashlib.blake2b(digest_size=32)
    for name in sorted(vectors):
        hashed.update(vectors[name].contiguous().numpy().tobytes())
    return hashed.hexdigest()


def noisy(vectors: Tensors, deviation: float, generator: np.random.Generator) -> Tensors:
    """Return vectors plus N(0, deviation²) in every number, drawn in the order of names."""
    if not deviation:
        return vectors
    noise = {name: torch.from_numpy(generator.standard_normal(vectors[name].shape)) for name in sorted(vectors)}
    return {name: value + deviation * noise[name] for name, value in vectors.items()}


def clipped_sum(updates: Iterable[Tensors], like: Tensors, clip: float) -> tuple[Tensors, int, int]:
    """Return the sum of clipped updates in float64, how many were no longer than C, and how many there were.

    Args:
        updates: u_k, one at a time.
        like: Tensors of the updates' names and shapes.
        clip: C.
    """
    total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in like.items()}
    below = arrived = 0
    for update in updates:
        vectors, short = clipped(update, clip)
        below, arrived = below + short, arrived + 1
        for name, value in vectors.items():
            total[name] += value
    return total, below, arrived


def noisy_mean(total: Tensors, deviation: float, count: int, generator: np.random.Generator) -> Tensors:
    """Return (Σ clipped + ξ)/n in fp32, ξ ~ N(0, deviation² I).

    The denominator is n, however many came: a missing update counts as 0. Replacing one user's data moves the sum by at
    most 2C, so the noise z·C is z/2 times the sensitivity.

    Args:
        total: From `clipped_sum`.
        deviation: zC.
        count: n, the number of users that were asked.
        generator: For ξ.
    """
    summed = noisy(total, deviation, generator)
    return {name: (value / count).float() for name, value in summed.items()}


def next_clip(
    clip: float, quantile: float, below: int, arrived: int, count: int, deviation: float, generator: np.random.Generator
) -> float:
    """Return the next round's C: C·exp(−η(b̃ − γ)), η = 0.2 (Andrew et al., arXiv 1905.03871, equation 2).

    b̃ = ½ + (Σ(b_k − ½) + N(0, σ_b²))/n, b_k = 1 if ‖u_k‖ ≤ C. More short updates than γ make C smaller.

    Args:
        clip: C.
        quantile: γ.
        below: Σ b_k.
        arrived: Number of updates.
        count: n, the number of users that were asked.
        deviation: σ_b.
        generator: For the noise.
    """
    noise = deviation * float(generator.standard_normal()) if deviation else 0.0
    share = 0.5 + (below - arrived / 2 + noise) / count
    return clip * math.exp(-_STEP * (share - quantile))
