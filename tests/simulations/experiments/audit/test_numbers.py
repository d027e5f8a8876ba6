"""Figures of attacks that rank, against hand-derived values and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from simulations.experiments.audit.numbers import (
    attack,
    auc,
    epsilon_proved,
    epsilon_suggested,
    exposure,
    likelihood_ratios,
    mean_bits,
)


def test_auc_counts_pairs_and_half_of_ties() -> None:
    # Of 2 × 3 pairs, 3 beats 0, 1 and 2; 1 beats 0, ties with 1, loses to 2: 4.5 of 6.
    assert auc(np.array([3.0, 1.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(4.5 / 6)
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(0.5, 1, 40), generator.normal(0, 1, 70)
    truth = np.r_[np.ones(40), np.zeros(70)]
    assert auc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]))


def test_the_share_found_at_one_percent_allows_one_false_alarm_in_a_hundred() -> None:
    outside = {user: np.arange(20.0) + 20 * user for user in range(5)}  # 0 to 99
    inside = {user + 5: np.array([98.5, 99.5, 0.0, 97.0]) for user in range(5)}
    found = attack(inside, outside, seed=0)
    # One of the hundred, 99, may lie above the threshold 98.
    assert found.tpr_at_1_percent == 0.5
    assert (found.members, found.non_members) == (20, 100)
    few = attack(inside, {0: np.arange(99.0)}, seed=0)
    assert few.tpr_at_1_percent is None
    assert few.tpr_interval is None


def test_the_interval_of_the_share_found_is_over_users() -> None:
    outside = {user: np.arange(20.0) + 20 * user for user in range(5)}
    # Half of the users are always found, the other half never.
    inside = {user + 5: np.full(10, 1000.0 if user % 2 else 0.0) for user in range(10)}
    found = attack(inside, outside, seed=0)
    assert found.tpr_at_1_percent == 0.5
    assert found.tpr_interval == pytest.approx((0.2, 0.8))  # quantiles of a binomial of 10


def test_the_interval_is_over_users_not_items() -> None:
    # Two users with 500 equal items each: the items say nothing more than the users do.
    inside = {user: np.full(500, float(user)) for user in range(2)}
    outside = {user: np.full(500, 0.5) for user in range(2, 4)}
    found = attack(inside, outside, seed=0)
    assert found.auc == 0.5
    assert found.interval == (0.0, 1.0)


def test_a_perfect_attack_on_many_users_proves_an_epsilon() -> None:
    inside, outside = np.ones(100), np.zeros(100)
    # Clopper-Pearson: 0.025^(1/100) for 100 of 100, one minus that for 0 of 100.
    least = 0.025 ** (1 / 100)
    assert epsilon_suggested(inside, outside, 0.0) == pytest.approx(math.log(least / (1 - least)))
    assert epsilon_suggested(inside, outside, 1e-2) == pytest.approx(math.log((least - 1e-2) / (1 - least)))


def test_guessing_proves_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 500))
    assert epsilon_suggested(scores[0], scores[1], 0.0) == 0.0


def test_a_planted_membership_shows_in_likelihood_ratios_and_none_does_not() -> None:
    generator = np.random.default_rng(0)
    inside = np.array([generator.permutation(np.arange(40) < 20) for _ in range(8)])
    noise, level = generator.normal(0, 1, (8, 40)), generator.normal(0, 5, 40)
    # Users differ by far more than membership does, which a common threshold could not see.
    members, others = likelihood_ratios(level + noise - 3 * inside, inside)
    assert auc(np.concatenate(list(members.values())), np.concatenate(list(others.values()))) > 0.9
    members, others = likelihood_ratios(level + noise, inside)
    assert 0.4 < auc(np.concatenate(list(members.values())), np.concatenate(list(others.values()))) < 0.6


def test_a_hundred_coins_guessed_right_prove_the_epsilon_of_a_binomial_tail() -> None:
    inside = np.arange(100) >= 50
    q = 0.05 ** (1 / 100)  # q^100 = 5 %
    assert epsilon_proved(np.arange(100.0), inside, 0.0) == pytest.approx(math.log(q / (1 - q)))
    assert epsilon_proved(np.arange(100.0), inside, 1e-5) < math.log(q / (1 - q))
    assert epsilon_proved(np.arange(100.0), inside, 0.1) == 0.0
    assert epsilon_proved(np.arange(100.0), ~inside, 0.0) == 0.0


def test_randomised_response_is_never_said_to_leak_more_than_it_does() -> None:
    # Answers are true with e/(1 + e): ε = 1 exactly, so a bound of 95 % may be above it once in twenty times.
    generator, truth = np.random.default_rng(0), math.e / (1 + math.e)
    found = []
    for _ in range(200):
        coins = generator.random(1000) < 0.5
        told = np.where(generator.random(1000) < truth, coins, ~coins)
        found.append(epsilon_proved(told + 0.1 * generator.random(1000), coins, 0.0))
    assert np.mean(np.array(found) > 1) <= 0.05
    assert np.median(found) > 0.7


def test_exposure_is_the_bits_that_a_rank_saves() -> None:
    others = np.arange(7.0)
    assert exposure(10.0, others) == 3.0  # the first of 8
    assert exposure(5.5, others) == 2.0  # the second
    assert exposure(-1.0, others) == 0.0  # the last
    # Nothing is told apart: between the fourth and the fifth of eight.
    assert exposure(1.0, np.ones(7)) == pytest.approx(math.log2(8 / 4.5))


def test_a_canary_that_is_not_remembered_has_the_average_of_all_ranks() -> None:
    generator = np.random.default_rng(0)
    found = [exposure(generator.normal(), generator.normal(size=255)) for _ in range(2000)]
    expected = 8 - np.log2(np.arange(1, 257)).mean()
    assert expected == pytest.approx(1.42, abs=0.01)
    bits = mean_bits(found, seed=0)
    assert bits is not None
    assert bits.interval is not None
    assert bits.interval[0] < expected < bits.interval[1]
    assert mean_bits([], seed=0) is None
    few = mean_bits(found[:4], seed=0)
    assert few is not None
    assert few.interval is None
