"""Seeds derived from the run's seed by name, so that no result depends on the order of events."""

import hashlib


def derive_entropy(secret: int, *names: str | int) -> int:
    """Return 256 bits for the purpose that `names` describe, of a seed or of a secret number of up to 256 bits."""
    text = "\x1f".join([str(secret), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=32).digest(), "big")


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the purpose that `names` describe.

    The same arguments give the same seed on every machine and Python version; different arguments give
    unrelated ones.

    Args:
        seed: The run's seed.
        names: The purpose of the seed, such as `("train", round, partition)`.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
