"""Noise that a client adds to its own update (`privacy.kind = "local"`): the server never has the update without it."""

import numpy as np

from configs.files import secret_number
from configs.privacy import PrivacyConfig
from configs.seeds import derive_entropy
from fl_clients.process.paths import ClientPaths
from strategies.aggregation.private_mean import clipped, digest, noisy
from strategies.codecs import minus, plus
from strategies.method import Method, Tensors


def protected(
    method: Method, trained: Tensors, start: Tensors, config: PrivacyConfig, asked: float, secret: int
) -> Tensors:
    """Return θ + min(1, C/‖u‖) u + N(0, (zC)² I), u = θ_k − θ in wire form, as shared tensors.

    Two updates differ by at most 2C after clipping, so this is the Gaussian mechanism with multiplier z/2.

    Args:
        method: For the wire form.
        trained: θ_k.
        start: θ, which the server knows.
        config: C.
        asked: z that the server derived from a target ε; a `noise_multiplier` of the config comes first.
        secret: What the noise follows from.

    Raises:
        ValueError: The server asks for no noise, and the config does not.
    """
    multiplier = asked if config.noise_multiplier is None else config.noise_multiplier
    if config.noise_multiplier is None and asked <= 0:
        raise ValueError(f"privacy.target_epsilon={config.target_epsilon}: the server asks for an update without noise")
    begin = method.to_wire(start)
    change, _ = clipped(minus(method.to_wire(trained), begin), config.clip)
    # The same update repeated has the same noise, and another update another.
    generator = np.random.default_rng(derive_entropy(secret, digest(change)))
    noise = noisy(change, multiplier * config.clip, generator)
    return method.from_wire(plus(begin, {name: value.float() for name, value in noise.items()}))


def noise_secret(paths: ClientPaths, seed: int, round_number: int, user_id: str) -> int:
    """Return 256 bits that a client's noise in a round follows from.

    In a simulation it follows from the run's seed. On a real device, whose server knows that seed, it follows from a
    number that the device keeps.
    """
    secret = secret_number(paths.private_dir.parent / "noise.key") if paths.is_real_device else seed
    return derive_entropy(secret, "privacy", round_number, user_id)
