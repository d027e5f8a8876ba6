"""Figures of attacks against hand-derived values and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneOut

from simulations.experiments.audit.numbers import (
    attack,
    auc,
    epsilon_suggested,
    infer,
    likelihood_ratios,
    link,
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


def test_updates_that_point_alike_are_linked() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 50))
    other = 3 * rows + 0.1 * np.random.default_rng(1).normal(size=(12, 50))
    found = link(rows, other)
    assert (found.accuracy, found.by_chance, found.users) == (1.0, 1 / 12, 12)
    assert link(rows, np.random.default_rng(2).normal(size=(12, 50))).accuracy < 0.5


def test_an_inferred_answer_leaves_the_user_out_as_a_refit_does() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 30)
    updates = np.eye(3)[truth] @ generator.normal(size=(3, 20)) + 1.5 * generator.normal(size=(30, 20))
    answers = [f"label {number}" for number in truth]
    found = infer(updates, answers)
    # The same by refitting, on the same rows: centred over all users, length 1.
    rows = updates - updates.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    strength = 0.1 * np.trace(centred @ centred.T) / 30 + 1e-12
    right = 0
    for kept, left in LeaveOneOut().split(rows):
        # Ridge of scikit-learn centres anew without the user, ours keeps the rows' centre: the intercept is free.
        model = Ridge(strength).fit(centred[kept], np.eye(3)[truth[kept]])
        right += int(model.predict(centred[left]).argmax() == truth[left][0])
    assert found.accuracy == pytest.approx(right / 30)
    assert found.accuracy > found.by_chance


def test_nothing_is_inferred_from_noise() -> None:
    generator = np.random.default_rng(3)
    answers = [f"label {number}" for number in generator.integers(0, 2, 60)]
    found = infer(generator.normal(size=(60, 30)), answers)
    assert found.interval[0] < found.by_chance


def test_chance_is_the_most_frequent_answer() -> None:
    answers = ["a"] * 30 + ["b"] * 30
    assert infer(np.random.default_rng(0).normal(size=(60, 30)), answers).by_chance == 0.5
