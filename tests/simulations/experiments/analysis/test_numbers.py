"""Figures of δ-vectors on small matrices whose answers are known."""

import numpy as np
import pytest

from simulations.experiments.analysis.numbers import (
    Decomposition,
    cosines_of_means,
    mantel,
    nearest_first,
    share_in_span,
)


def test_ranks_are_read_from_squared_singular_values() -> None:
    # Orthogonal rows of length 4, 2 and 1: the squares 16, 4 and 1 hold 76, 95 and 100 %.
    parts = Decomposition.of(np.diag([4.0, 2.0, 1.0, 0.0])[:3])
    assert parts.singular.tolist() == [4, 2, 1]
    assert [parts.rank(share) for share in (0.75, 0.80, 0.95, 0.96, 1.0)] == [1, 2, 2, 3, 3]


def test_the_means_share_is_one_for_equal_vectors_and_one_over_users_for_orthogonal_ones() -> None:
    assert Decomposition.of(np.tile([1.0, 2.0], (5, 1))).mean_share == pytest.approx(1)
    assert Decomposition.of(np.eye(4)).mean_share == pytest.approx(1 / 4)


def test_coordinates_are_signed_so_that_the_mean_is_positive() -> None:
    vectors = np.array([[-3.0, 0.1], [-3.0, -0.1], [-3.0, 0.0]])
    own = Decomposition.of(vectors).coordinates(count=2)
    assert (own[:, 0] > 0).all()
    np.testing.assert_allclose(np.abs(own[:, 0]), 3)
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), np.linalg.norm(vectors, axis=1))


def test_the_nearest_user_has_the_smallest_angle_whatever_its_length() -> None:
    vectors = np.array([[0.0, 1.0], [10.0, 0.5], [0.1, 0.02]])
    # The mean is about (3.4, 0.5): angles of 82°, 6° and 3°.
    assert nearest_first(vectors).tolist() == [2, 1, 0]


def test_means_of_groups_are_compared_by_their_angle() -> None:
    right = np.array([[1.0, 1.0], [1.0, -1.0]])  # mean (1, 0)
    up_right = np.array([[2.0, 0.0], [0.0, 2.0]])  # mean (1, 1)
    cosines = cosines_of_means([right, -3 * right, up_right])
    np.testing.assert_allclose(cosines, [[1, -1, 0.5**0.5], [-1, 1, -(0.5**0.5)], [0.5**0.5, -(0.5**0.5), 1]])


def test_a_direction_in_the_rows_of_r_is_wholly_in_its_span() -> None:
    R = np.eye(2, 4)
    assert share_in_span(np.array([3.0, 4.0, 0.0, 0.0]), R) == pytest.approx(1)
    assert share_in_span(np.array([0.0, 0.0, 1.0, 1.0]), R) == pytest.approx(0)
    assert share_in_span(np.ones(4), R) == pytest.approx(2 / 4)


def test_mantel_finds_what_is_the_same_and_not_what_is_drawn_apart() -> None:
    draw = np.random.default_rng(0)
    one = draw.normal(size=(12, 3))
    correlation, p_value = mantel(one, 2 * one, 0) or (0, 0)
    assert correlation == pytest.approx(1)
    assert p_value == pytest.approx(1 / 1001)
    _, p_value = mantel(one, draw.normal(size=(12, 2)), 0) or (0, 0)
    assert p_value > 0.05
    assert mantel(one, np.ones((12, 2)), 0) is None  # all distances are 0
    assert mantel(one, 2 * one, 0) == mantel(one, 2 * one, 0)
