"""Clipping, noise and the adaptive clip, by hand."""

import math

import numpy as np
import pytest
import torch

from strategies.aggregation.private_mean import clipped, clipped_sum, digest, next_clip, noisy, noisy_mean


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_tensors_are_clipped_as_one_vector() -> None:
    # ‖(3, 4, 12)‖ = 13; with C = 6.5 every number is halved.
    update = {"shared_a": torch.tensor([3.0, 4.0]), "shared_b": torch.tensor([[12.0]])}
    short, below = clipped(update, 6.5)
    assert short["shared_a"].tolist() == [1.5, 2.0]
    assert short["shared_b"].tolist() == [[6.0]]
    assert not below
    same, below = clipped(update, 13.0)
    assert same["shared_a"].tolist() == [3.0, 4.0]
    assert below


def test_an_update_of_zeros_stays_zero() -> None:
    zeros, below = clipped({"shared_a": torch.zeros(3)}, 1.0)
    assert zeros["shared_a"].tolist() == [0.0, 0.0, 0.0]
    assert below


def test_without_noise_it_is_the_mean_of_clipped_updates_over_all_that_were_asked() -> None:
    # (1, 0) stays, (0, 4) becomes (0, 2); four were asked, so the two that are missing count as 0.
    updates = [{"shared_a": torch.tensor([1.0, 0.0])}, {"shared_a": torch.tensor([0.0, 4.0])}]
    total, below, arrived = clipped_sum(updates, updates[0], clip=2.0)
    assert (below, arrived) == (1, 2)
    assert noisy_mean(total, 0.0, 4, generator())["shared_a"].tolist() == [0.25, 0.5]


def test_the_noise_on_the_sum_has_the_given_deviation() -> None:
    zeros = {"shared_a": torch.zeros(100_000)}
    total, _, _ = clipped_sum([zeros] * 5, zeros, clip=3.0)
    noise = noisy_mean(total, 6.0, 10, generator())["shared_a"].double() * 10
    # Of 100,000 draws the deviation is known to 0.2 %, the mean to 0.02.
    assert float(noise.std()) == pytest.approx(6.0, rel=0.01)
    assert abs(float(noise.mean())) < 0.1


def test_replacing_one_user_moves_the_sum_by_at_most_two_clips() -> None:
    rest = [{"shared_a": torch.tensor([0.3, -0.1])}] * 3
    one, other = ({"shared_a": torch.tensor([sign * 50.0, 0.0])} for sign in (1, -1))
    sums = [clipped_sum([*rest, last], last, clip=1.0)[0]["shared_a"] for last in (one, other)]
    assert float((sums[0] - sums[1]).norm()) == pytest.approx(2.0)


def test_another_sum_has_another_digest() -> None:
    one, same, other = ({"shared_a": torch.tensor([1.0, last]).double()} for last in (2.0, 2.0, 2.000001))
    assert digest(one) == digest(same)
    assert digest(one) != digest(other)


def test_noise_does_not_depend_on_the_order_of_tensors() -> None:
    tensors = {"shared_a": torch.zeros(2).double(), "shared_b": torch.zeros(3).double()}
    ahead = noisy(tensors, 1.0, generator())
    behind = noisy(dict(reversed(tensors.items())), 1.0, generator())
    assert all(torch.equal(ahead[name], behind[name]) for name in tensors)


def test_the_clip_shrinks_if_too_many_updates_are_short() -> None:
    # All of 10 are below C: b̃ = 1, C·exp(−0.2·(1 − 0.5)).
    assert next_clip(2.0, 0.5, 10, 10, 10, 0.0, generator()) == pytest.approx(2.0 * math.exp(-0.1))
    assert next_clip(2.0, 0.5, 0, 10, 10, 0.0, generator()) == pytest.approx(2.0 * math.exp(0.1))
    # Those that did not come push it nowhere.
    assert next_clip(2.0, 0.5, 0, 0, 10, 0.0, generator()) == 2.0


@pytest.mark.parametrize("begin", [0.01, 100.0])
def test_the_clip_settles_at_the_median_of_a_known_distribution(begin: float) -> None:
    # Lengths 0.1 to 9.9: the median is 5.
    lengths = torch.arange(1, 100) / 10
    clip, draw = begin, generator()
    for _ in range(200):
        below = int((lengths <= clip).sum())
        clip = next_clip(clip, 0.5, below, 99, 99, 99 / 20, draw)
    assert clip == pytest.approx(5.0, rel=0.1)
