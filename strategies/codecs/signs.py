"""Codecs that send one bit a number, and a scale for each block."""

import numpy as np

from strategies.codecs.quantised import read_numbers

SIGN_BLOCK = 1024
DRIVE_BLOCK = 4096
"""Numbers in a block; the last one is shorter for `sign`, and filled with zeros for `drive`."""


def write_sign(values: np.ndarray, _seed: int) -> bytes:
    """⌈n/8⌉ + 4⌈n/1024⌉ bytes: the signs, and the mean magnitude of each block.

    Karimireddy et al., arXiv 1901.09847. ‖x̂ − x‖² = ‖x‖² − ‖x‖₁²/n in each block.
    """
    starts = np.arange(0, len(values), SIGN_BLOCK)
    sizes = np.diff(np.append(starts, len(values)))
    means = np.add.reduceat(np.abs(values.astype(np.float64)), starts) / sizes
    return bytes(means.astype("<f4").tobytes() + np.packbits(values >= 0).tobytes())


def read_sign(data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_sign`: plus or minus the block's mean magnitude."""
    blocks = -(-n // SIGN_BLOCK)
    means = np.repeat(read_numbers(data[: 4 * blocks], "<f4", blocks).astype(np.float32), SIGN_BLOCK)[:n]
    positive = np.unpackbits(read_numbers(data[4 * blocks :], "u1", -(-n // 8)))[:n].astype(bool)
    return np.asarray(np.where(positive, means, -means))


def write_drive(values: np.ndarray, seed: int) -> bytes:
    """(N/8 + 4) bytes for each block of N = 4096 numbers: the signs after a random rotation, and a scale S.

    r = HDx/√N, D random signs from the seed, H Hadamard's matrix; S = ‖x‖²/‖r‖₁. With a uniformly random rotation the
    mean of what is decoded would be x. This one comes close, unless few numbers dominate their block: the mean for
    (1, ½, 0, …, 0) is (1¼, 0, …, 0). A vector of fewer than 4096 numbers is one block, filled up to a power of two.
    Vargaftik et al., DRIVE, arXiv 2105.08339.
    """
    blocks, flips = _blocks(len(values), seed)
    blocks.reshape(-1)[: len(values)] = values
    rotated = _hadamard(blocks * flips)
    length = np.abs(rotated).sum(axis=1)
    scale = np.divide(np.square(blocks).sum(axis=1), length, out=np.zeros_like(length), where=length > 0)
    return bytes(scale.astype("<f4").tobytes() + np.packbits(rotated >= 0).tobytes())


def read_drive(data: bytes, n: int, seed: int) -> np.ndarray:
    """Undo `write_drive`: x̂ = D H (S·sign r)/√N."""
    blocks, flips = _blocks(n, seed)
    scale = read_numbers(data[: 4 * len(blocks)], "<f4", len(blocks)).astype(np.float64)
    positive = np.unpackbits(read_numbers(data[4 * len(blocks) :], "u1", blocks.size // 8)).reshape(blocks.shape)
    rotated = np.where(positive, scale[:, None], -scale[:, None])
    return np.asarray((_hadamard(rotated) * flips).reshape(-1)[:n], np.float32)


def _blocks(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return empty blocks for n numbers, and the random signs D."""
    size = min(DRIVE_BLOCK, max(8, 1 << (n - 1).bit_length()))
    blocks = np.zeros((-(-n // size), size))
    return blocks, np.random.default_rng(seed).integers(0, 2, blocks.shape) * 2.0 - 1.0


def _hadamard(rows: np.ndarray) -> np.ndarray:
    """Multiply every row, whose length N is a power of two, by Hadamard's matrix over √N."""
    count, size = rows.shape
    half = 1
    while half < size:
        pairs = rows.reshape(count, -1, 2, half)
        rows = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        half *= 2
    return np.asarray(rows.reshape(count, size) / np.sqrt(size))
