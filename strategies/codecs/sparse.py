"""Codecs that send only the largest numbers, with their places."""

import math

import numpy as np

from strategies.codecs.quantised import read_fp16, read_numbers, write_fp16


def count(share: float, n: int) -> int:
    """Return k, the number of values sent: the share of n, at least one."""
    return max(1, min(n, round(share * n)))


def write_nonzero(values: np.ndarray, _seed: int) -> bytes:
    """4 + 4k bytes and those of the places: the k numbers that are not 0, exactly."""
    places = np.flatnonzero(values)
    numbers = np.asarray([len(places)], "<u4").tobytes() + values[places].astype("<f4").tobytes()
    return numbers + (write_places(places, len(values)) if len(places) else b"")


def read_nonzero(data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_nonzero`, exactly."""
    k = int(read_numbers(data[:4], "<u4", 1)[0])
    end = 4 + 4 * k
    if k > n or (not k and len(data) > end):
        raise ValueError(f"{k} of {n} numbers do not fill {len(data)} bytes")
    values = np.zeros(n, np.float32)
    if k:
        chosen = read_numbers(data[4:end], "<f4", k)
        values[read_places(data[end:], k, n)] = chosen
    return values


def write_top(share: float, values: np.ndarray, seed: int) -> bytes:
    """2k bytes and those of the places: the k largest in magnitude as fp16, zero elsewhere."""
    places = _largest(values, count(share, len(values)))
    return write_fp16(values[places], seed) + write_places(places, len(values))


def read_top(share: float, data: bytes, n: int, seed: int) -> np.ndarray:
    """Undo `write_top`: ‖x̂ − x‖² ≤ (1 − k/n)‖x‖² before the rounding to fp16."""
    k = count(share, n)
    values = np.zeros(n, np.float32)
    values[read_places(data[2 * k :], k, n)] = read_fp16(data[: 2 * k], k, seed)
    return values


def write_ternary(share: float, values: np.ndarray, _seed: int) -> bytes:
    """4 + ⌈k/8⌉ bytes and those of the places: of the k largest only the signs, and their mean magnitude μ.

    Sattler et al., Sparse Ternary Compression, arXiv 1903.02891.
    """
    places = _largest(values, count(share, len(values)))
    chosen = values[places]
    mean = np.abs(chosen).mean(dtype=np.float64)
    return np.asarray([mean], "<f4").tobytes() + np.packbits(chosen >= 0).tobytes() + write_places(places, len(values))


def read_ternary(share: float, data: bytes, n: int, _seed: int) -> np.ndarray:
    """Undo `write_ternary`: ±μ at the k places, zero elsewhere."""
    k = count(share, n)
    end = 4 + -(-k // 8)
    mean = read_numbers(data[:4], "<f4", 1)[0]
    positive = np.unpackbits(read_numbers(data[4:end], "u1", end - 4))[:k].astype(bool)
    values = np.zeros(n, np.float32)
    values[read_places(data[end:], k, n)] = np.where(positive, mean, -mean)
    return values


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k largest magnitudes in increasing order; of equal ones, the first."""
    return np.sort(np.argsort(-np.abs(values), kind="stable")[:k])


def rice_bits(k: int, n: int) -> int:
    """Return b, the number of low bits of a gap that are written as they are: the best for k random places among n.

    b = 1 + ⌊log₂(log((√5 − 1)/2) / log(1 − p))⌋, p = k/n (Kiely, IPN Progress Report 42-159, 2004).
    """
    if k >= n:
        return 0
    return max(0, 1 + math.floor(math.log2(math.log((math.sqrt(5) - 1) / 2) / math.log1p(-k / n))))


def write_places(places: np.ndarray, n: int) -> bytes:
    """Write increasing places: gaps in Rice's code, or a bitmap of ⌈n/8⌉ bytes if that is not longer.

    A gap g to the place before becomes ⌊g/2^b⌋ ones and a zero; then the b low bits of all gaps follow. That is
    Σ(⌊g/2^b⌋ + 1 + b) bits.
    """
    low = rice_bits(len(places), n)
    gaps = np.diff(places, prepend=-1) - 1
    high = gaps >> low
    unary = np.ones(int(high.sum()) + len(high), np.uint8)
    unary[np.cumsum(high + 1) - 1] = 0
    rest = (gaps[:, None] >> np.arange(low - 1, -1, -1)) & 1
    coded = np.packbits(np.concatenate([unary, rest.reshape(-1).astype(np.uint8)])).tobytes()
    if len(coded) < -(-n // 8):
        return coded
    bitmap = np.zeros(n, np.uint8)
    bitmap[places] = 1
    return np.packbits(bitmap).tobytes()


def read_places(data: bytes, k: int, n: int) -> np.ndarray:
    """Undo `write_places`.

    Raises:
        ValueError: These are not k increasing places below n.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(data) == -(-n // 8):
        places = np.flatnonzero(bits)
    else:
        low = rice_bits(k, n)
        ends = np.flatnonzero(bits == 0)[:k]
        if len(ends) < k or len(data) != -(-(int(ends[-1]) + 1 + k * low) // 8):
            raise ValueError(f"the places of {k} numbers do not fill {len(data)} bytes")
        begin = int(ends[-1]) + 1
        high = np.diff(ends, prepend=-1) - 1
        rest = bits[begin : begin + k * low].reshape(k, low).astype(np.int64)
        gaps = (high.astype(np.int64) << low) + rest @ (1 << np.arange(low - 1, -1, -1, dtype=np.int64))
        places = np.cumsum(gaps + 1) - 1
    if len(places) != k or places[-1] >= n:
        raise ValueError(f"expected {k} places below {n}")
    return places
