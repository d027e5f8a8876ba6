"""Codecs that write every number with fewer bits."""

import numpy as np
import torch

BLOCK = 256
"""Numbers that share a scale."""
_FP16_MAX = 65504.0


def write_fp32(values: np.ndarray, _seed: int) -> bytes:
    """4n bytes."""
    return values.astype("<f4").tobytes()


def read_fp32(data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_fp32`, exactly."""
    return read_numbers(data, "<f4", n).astype(np.float32)


def write_fp16(values: np.ndarray, _seed: int) -> bytes:
    """2n bytes; numbers beyond ±65504 become ±65504."""
    return bytes(np.clip(values, -_FP16_MAX, _FP16_MAX).astype("<f2").tobytes())


def read_fp16(data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_fp16`."""
    return read_numbers(data, "<f2", n).astype(np.float32)


def write_bf16(values: np.ndarray, _seed: int) -> bytes:
    """2n bytes, with the range of fp32 and 8 bits of precision."""
    return bytes(torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes())


def read_bf16(data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_bf16`."""
    whole = torch.from_numpy(read_numbers(data, "<i2", n).astype(np.int16))
    return np.asarray(whole.view(torch.bfloat16).float().numpy())


def write_int(bits: int, values: np.ndarray, seed: int) -> bytes:
    """⌈n·bits/8⌉ + 4⌈n/256⌉ bytes: integers from −s to s, s = 2^(bits−1) − 1, in units of the block's max|x| / s.

    y = s·x / max|x| is rounded up with probability y − ⌊y⌋, else down, so that the mean of what is decoded is x
    (Alistarh et al., QSGD, arXiv 1610.02132, with the maximum in place of the norm).
    """
    steps = _steps(bits)
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: len(values)] = values
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0) * steps
    floor = np.floor(scaled)
    up = np.random.default_rng(seed).random(scaled.shape, np.float32) < scaled - floor
    whole = (floor + up).astype(np.int8).reshape(-1)[: len(values)]
    if bits == 4:
        nibbles = np.zeros(-(-len(whole) // 2) * 2, np.uint8)
        nibbles[: len(whole)] = whole + steps
        return bytes(scale.astype("<f4").tobytes() + (nibbles[::2] << 4 | nibbles[1::2]).tobytes())
    return bytes(scale.astype("<f4").tobytes() + whole.tobytes())


def read_int(bits: int, data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_int` up to rounding: |x̂ − x| ≤ max|x| / s in each block."""
    steps, blocks = _steps(bits), -(-n // BLOCK)
    scale = read_numbers(data[: 4 * blocks], "<f4", blocks)
    packed = data[4 * blocks :]
    if bits == 4:
        pairs = read_numbers(packed, "u1", -(-n // 2))
        whole = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:n].astype(np.float32) - steps
    else:
        whole = read_numbers(packed, "i1", n).astype(np.float32)
    return whole * (np.repeat(scale.astype(np.float32), BLOCK)[:n] / np.float32(steps))


def _steps(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def read_numbers(data: bytes, dtype: str, count: int) -> np.ndarray:
    """Read numbers of one type.

    Raises:
        ValueError: The bytes are more or fewer.
    """
    if len(data) != count * np.dtype(dtype).itemsize:
        raise ValueError(f"expected {count * np.dtype(dtype).itemsize} bytes, got {len(data)}")
    return np.frombuffer(data, dtype)
