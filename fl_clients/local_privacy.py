"""Noise that a client adds to its own update (`privacy.kind = "local"`): the server never has the update without it."""

import torch

from configs.files import secret_number
from configs.privacy import PrivacyConfig
from configs.seeds import derive_seed
from fl_clients.process.paths import ClientPaths
from strategies.aggregation.private_mean import clipped, noisy
from strategies.codecs import minus, plus
from strategies.method import Method, Tensors


def protected(
    method: Method, trained: Tensors, start: Tensors, config: PrivacyConfig, multiplier: float, seed: int
) -> Tensors:
    """Return θ + min(1, C/‖u‖) u + N(0, (zC)² I), u = θ_k − θ in wire form, as shared tensors.

    Two updates differ by at most 2C after clipping, so this is the Gaussian mechanism with multiplier z/2.

    Args:
        method: For the wire form.
        trained: θ_k.
        start: θ, which the server knows.
        config: C.
        multiplier: z.
        seed: Of the noise.
    """
    begin = method.to_wire(start)
    change, _ = clipped(minus(method.to_wire(trained), begin), config.clip)
    noise = noisy(change, multiplier * config.clip, torch.Generator().manual_seed(seed))
    return method.from_wire(plus(begin, {name: value.float() for name, value in noise.items()}))


def noise_seed(paths: ClientPaths, seed: int, round_number: int, user_id: str) -> int:
    """Return the seed of a client's noise in a round.

    In a simulation it follows from the run's seed. On a real device, whose server knows that seed, it follows from a
    number that the device keeps, so that a repeated task repeats its noise.
    """
    secret = secret_number(paths.private_dir.parent / "noise.key") if paths.is_real_device else seed
    return derive_seed(secret, "privacy", round_number, user_id)
