"""What updates say of their senders, against hand-derived values and refits by scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut

from simulations.experiments.audit.guesses import infer_answer, infer_taste, link


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
    found = infer_answer(updates, answers)
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
    found = infer_answer(generator.normal(size=(60, 30)), answers)
    assert found.interval[0] < found.by_chance


def test_chance_is_the_most_frequent_answer() -> None:
    answers = ["a"] * 30 + ["b"] * 30
    assert infer_answer(np.random.default_rng(0).normal(size=(60, 30)), answers).by_chance == 0.5


def test_a_taste_that_moves_an_update_is_inferred_beyond_the_crowds() -> None:
    generator = np.random.default_rng(0)
    crowd = np.array([1.0, 0.5, 0.0, -0.5])
    worths = crowd + generator.normal(size=(80, 4))
    updates = worths @ generator.normal(size=(4, 30)) + 0.1 * generator.normal(size=(80, 30))
    found = infer_taste(updates, [worths], seed=0)
    assert found.interval[0] > found.by_chance
    assert found.users == 80
    silent = infer_taste(generator.normal(size=(80, 30)), [worths], seed=0)
    assert silent.interval[0] < silent.by_chance


def test_chance_is_the_order_of_the_others() -> None:
    # Three users prefer the first option, one the second; without updates that differ, the three are guessed right.
    worths = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = infer_taste(np.ones((4, 2)), [worths], seed=0)
    assert found.by_chance == 0.75
    assert found.accuracy == 0.75
