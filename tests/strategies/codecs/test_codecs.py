"""Every codec: the bytes of its formula, and what it promises about the values."""

import math

import numpy as np
import pytest

from strategies.codecs import find_codec
from strategies.codecs.sparse import count, read_places, rice_bits, write_places

ALL = [
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "top-k 0.1",
    "top-k 0.01",
    "ternary 0.1",
    "ternary 0.01",
    "sign",
    "drive",
    "nonzero",
]
UNBIASED = ["int8", "int4", "drive"]
CONTRACTIVE = ["top-k 0.1", "ternary 0.1", "sign"]
SIZES = [1, 7, 8, 255, 256, 257, 1024, 4097, 20_000]


def vector(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, n).astype(np.float32)


def code(name: str, values: np.ndarray, seed: int = 5) -> np.ndarray:
    codec = find_codec(name)
    decoded = codec.decode(codec.encode(values, seed), len(values), seed)
    assert decoded.dtype == np.float32
    return decoded


def error(decoded: np.ndarray, values: np.ndarray) -> float:
    """‖x̂ − x‖² / ‖x‖²."""
    return float(np.square(decoded - values, dtype=np.float64).sum() / np.square(values, dtype=np.float64).sum())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", SIZES)
def test_zero_stays_zero(name: str, n: int) -> None:
    assert np.array_equal(np.abs(code(name, np.zeros(n, np.float32))), np.zeros(n, np.float32))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("fp32", lambda n: 4 * n),
        ("fp16", lambda n: 2 * n),
        ("bf16", lambda n: 2 * n),
        ("int8", lambda n: n + 4 * math.ceil(n / 256)),
        ("int4", lambda n: math.ceil(n / 2) + 4 * math.ceil(n / 256)),
        ("sign", lambda n: math.ceil(n / 8) + 4 * math.ceil(n / 1024)),
    ],
)
def test_bytes_are_those_of_the_formula(name: str, formula: object, n: int) -> None:
    assert callable(formula)
    assert len(find_codec(name).encode(vector(n), 0)) == formula(n)


def test_drive_cuts_long_vectors_into_blocks_and_fills_short_ones_up() -> None:
    # 4097 numbers are two blocks of 4096 bits and a scale each; 100 numbers one block of 128 bits.
    assert [len(find_codec("drive").encode(vector(n), 0)) for n in (4097, 100)] == [2 * (512 + 4), 16 + 4]


def test_nonzero_is_exact_and_needs_four_bytes_a_number_and_its_places() -> None:
    values = np.zeros(20_000, np.float32)
    places = np.sort(np.random.default_rng(0).choice(20_000, 2000, replace=False))
    values[places] = vector(2000)
    assert np.array_equal(code("nonzero", values), values)
    assert len(find_codec("nonzero").encode(values, 0)) == 4 + 4 * 2000 + len(write_places(places, 20_000))
    assert len(find_codec("nonzero").encode(np.zeros(20_000, np.float32), 0)) == 4
    with pytest.raises(ValueError, match="0 of 20000 numbers do not fill 5 bytes"):
        find_codec("nonzero").decode(bytes(5), 20_000, 0)


@pytest.mark.parametrize("share", [0.1, 0.05, 0.01])
def test_sparse_codecs_need_about_as_many_bits_as_expected(share: float) -> None:
    n = 83_016
    k = count(share, n)
    low = rice_bits(k, n)
    # The expected length of a gap's code: b + 1/(1 − (1 − p)^(2^b)).
    bits = low + 1 / (1 - (1 - k / n) ** (2**low))
    assert bits == pytest.approx({0.1: 4.76, 0.05: 5.79, 0.01: 8.11}[share], abs=0.01)
    top = len(find_codec(f"top-k {share}").encode(vector(n), 0))
    ternary = len(find_codec(f"ternary {share}").encode(vector(n), 0))
    assert top == pytest.approx(2 * k + k * bits / 8, rel=0.01)
    assert ternary == pytest.approx(4 + k * (bits + 1) / 8, rel=0.01)


def test_places_are_coded_by_hand() -> None:
    # Places 0, 3, 9 of 100: gaps 0, 2, 5. p = 0.03 gives b = 4, so every gap is a zero bit and four low bits.
    places = np.array([0, 3, 9])
    assert rice_bits(3, 100) == 4
    assert write_places(places, 100) == bytes([0b000_0000_0, 0b010_0101_0])
    # Three places of four: no code is shorter than four bits of a bitmap.
    assert write_places(np.array([0, 1, 3]), 4) == bytes([0b1101_0000])
    assert read_places(bytes([0b1101_0000]), 3, 4).tolist() == [0, 1, 3]


@pytest.mark.parametrize("n", [1, 2, 50, 1000, 30_000])
@pytest.mark.parametrize("share", [1e-4, 0.01, 0.1, 0.5, 1.0])
def test_places_come_back(n: int, share: float) -> None:
    k = count(share, n)
    rng = np.random.default_rng(n)
    for places in (rng.choice(n, k, replace=False), np.arange(k), np.arange(n - k, n)):
        assert np.array_equal(read_places(write_places(np.sort(places), n), k, n), np.sort(places))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x00\x00\x00", b"\xff" * 12])
def test_places_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"3 (numbers|places)"):
        read_places(data, 3, 90)


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_over_seeds_is_the_vector(name: str) -> None:
    values = vector(5000)
    once = error(code(name, values, 0), values)
    mean = np.mean([code(name, values, seed) for seed in range(100)], axis=0)
    # A hundred independent errors leave a hundredth of the square.
    assert error(mean, values) == pytest.approx(once / 100, rel=0.15)


def test_drive_loses_a_small_number_beside_one_that_dominates() -> None:
    # r = (1 ± ½, …)/√8 up to signs, so S = ‖x‖²/‖r‖₁ = 1.25/(8 · 1/√8) and every sign is that of the 1.
    values = np.array([1, 0.5, 0, 0, 0, 0, 0, 0], dtype=np.float32)
    mean = np.mean([code("drive", values, seed) for seed in range(50)], axis=0)
    assert mean == pytest.approx([1.25, 0, 0, 0, 0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("name", CONTRACTIVE)
def test_the_error_is_shorter_than_the_vector(name: str) -> None:
    for seed in range(5):
        values = vector(3000, seed)
        assert error(code(name, values), values) < 1
    if name.startswith("top-k"):
        # ‖x̂ − x‖² ≤ (1 − k/n)‖x‖², with equality for equal magnitudes.
        assert error(code(name, np.ones(3000, np.float32)), np.ones(3000)) == pytest.approx(0.9)
        assert error(code(name, values), values) <= 0.9


def test_a_small_vector_by_hand() -> None:
    values = np.array([4.0, -2.0, 0.5, 1.0], np.float32)
    assert code("top-k 0.5", values).tolist() == [4, -2, 0, 0]
    assert code("ternary 0.5", values).tolist() == [3, -3, 0, 0]
    assert code("sign", values).tolist() == [1.875, -1.875, 1.875, 1.875]
    # Units of 4/7: −2 is −3.5 units and becomes −3 or −4; the largest number is exact.
    found = {tuple(np.round(code("int4", values, seed) * 7 / 4).tolist()) for seed in range(50)}
    assert {row[0] for row in found} == {7}
    assert {row[1] for row in found} == {-3, -4}
    assert {row[2] for row in found} == {0, 1}


def test_drive_of_one_block_is_its_formula() -> None:
    values = vector(64)
    flips = np.random.default_rng(5).integers(0, 2, (1, 64)) * 2.0 - 1.0
    matrix = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(64)] for i in range(64)]) / 8
    rotated = matrix @ (flips[0] * values)
    scale = np.square(values).sum() / np.abs(rotated).sum()
    expected = flips[0] * (matrix.T @ (scale * np.sign(rotated)))
    assert np.allclose(code("drive", values), expected, atol=1e-5)


def test_large_and_tiny_numbers_survive_in_the_wide_formats() -> None:
    values = np.array([1e30, -1e-30, 70_000.0], np.float32)
    assert np.allclose(code("bf16", values), values, rtol=2**-8)
    assert code("fp16", values).tolist() == [65504, 0, 65504]


@pytest.mark.parametrize("name", [n for n in ALL if n != "fp32"])
def test_a_wrong_number_of_bytes_is_refused(name: str) -> None:
    codec = find_codec(name)
    data = codec.encode(vector(300), 0)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(ValueError, match=r"bytes|places"):
            codec.decode(wrong, 300, 0)


@pytest.mark.parametrize(
    "name", ["raw", "int2", "top-k", "top-k 0", "top-k 1.5", "ternary 2", "top-k 1e", "top-k -0.1"]
)
def test_unknown_codecs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected (raw, fp32|a share of the numbers above 0 and at most 1)"):
        find_codec(name)
