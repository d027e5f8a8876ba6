"""Integers, their sums and masks, by hand."""

import numpy as np
import pytest

from strategies.secure.keys import new_secret
from strategies.secure.ring import Ring


def test_numbers_become_equal_steps() -> None:
    # One byte for the sum of three: ⌊255/3⌋ = 85 steps, so −1, 1 and −1 + 2·17/85 = −0.6 are 0, 85 and 17.
    ring = Ring(1, 1.0, 3)
    assert ring.steps == 85
    integers, cut = ring.encode(np.array([-1.0, 1.0, -0.6]), seed=0)
    assert integers.tolist() == [0, 85, 17]
    assert cut == 0


def test_values_beyond_the_limit_are_cut_and_counted() -> None:
    integers, cut = Ring(1, 0.5, 3).encode(np.array([-2.0, 0.5, 7.0]), seed=0)
    assert integers.tolist() == [0, 85, 85]
    assert cut == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Ring(3, 1.0, 3).encode(np.array([0.0, value]), seed=0)


def test_rounding_is_right_on_average() -> None:
    ring = Ring(1, 1.0, 3)
    # 0 lies between the steps 42 and 43.
    integers, _ = ring.encode(np.zeros(20_000), seed=1)
    assert set(integers.tolist()) == {42, 43}
    assert float(ring.decode_sum(integers, 1).mean()) == pytest.approx(0.0, abs=5e-4)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_sum_is_within_a_step_of_each_user(width: int) -> None:
    ring = Ring(width, 0.25, 5)
    values = np.random.default_rng(0).uniform(-0.25, 0.25, (5, 1000))
    total = np.zeros(1000, np.uint32)
    for user, row in enumerate(values):
        total = ring.add(total, ring.encode(row, seed=user)[0])
    step = 2 * 0.25 / ring.steps
    assert float(np.abs(ring.decode_sum(total, 5) - values.sum(axis=0)).max()) <= 5 * step


def test_the_largest_sum_does_not_overflow() -> None:
    ring = Ring(1, 1.0, 3)
    total = np.zeros(2, np.uint32)
    for user in range(3):
        total = ring.add(total, ring.encode(np.ones(2), seed=user)[0])
    assert total.tolist() == [255, 255]
    assert ring.decode_sum(total, 3).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_mask_and_its_negative_cancel(width: int) -> None:
    ring, secret = Ring(width, 1.0, 2), new_secret()
    integers, _ = ring.encode(np.linspace(-1, 1, 50), seed=0)
    masked = ring.add(integers, ring.mask(secret, 50))
    assert masked.tolist() != integers.tolist()
    assert ring.add(masked, ring.mask(secret, 50), -1).tolist() == integers.tolist()
    assert int(masked.max()) < 2 ** (8 * width)


def test_masks_are_spread_over_the_whole_ring() -> None:
    mask = Ring(1, 1.0, 2).mask(new_secret(), 100_000)
    counts = np.bincount(mask.astype(int), minlength=256)
    # 390.6 of each on average, with a deviation of 20.
    assert counts.min() > 390 - 120
    assert counts.max() < 390 + 120


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_take_their_width_in_bytes(width: int) -> None:
    ring = Ring(width, 1.0, 2)
    integers = np.array([0, 1, 2 ** (8 * width) - 1], np.uint32)
    packed = ring.pack(integers)
    assert packed.dtype == np.uint8
    assert len(packed) == 3 * width
    assert ring.unpack(packed).tolist() == integers.tolist()


def test_too_few_bytes_for_a_sum_are_refused() -> None:
    with pytest.raises(ValueError, match=r"secure.bytes=1: no room for the sum of 200 users"):
        _ = Ring(1, 1.0, 200).steps
