"""Rules against bad updates: worked out by hand on small numbers, and compared with Flower's implementations."""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum

from strategies.aggregation.robust import Update, apply_rule, find_fault, step_norm
from strategies.method import Tensors

START = {"shared_x.1.b": torch.zeros(2)}


def updates(*vectors: list[float]) -> list[Update]:
    return [Update(n, {"shared_x.1.b": torch.tensor(vector)}, 5) for n, vector in enumerate(vectors)]


def rule(name: str, share: float, given: list[Update]) -> list[Update]:
    norms = [step_norm(update.shared, START) for update in given]
    return list(apply_rule(name, share, given, norms, START))


def values(given: list[Update]) -> list[list[float]]:
    return [update.shared["shared_x.1.b"].tolist() for update in given]


GIVEN = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 1.0], [90.0, -120.0]]


def test_without_a_rule_updates_are_unchanged() -> None:
    assert values(rule("none", 0.2, updates(*GIVEN))) == GIVEN


def test_clipping_shortens_to_the_median_length() -> None:
    # Lengths 1, 2, 5, 1, 150; the median is 2.
    clipped = rule("clip", 0.2, updates(*GIVEN))
    assert values(clipped) == [
        [1.0, 0.0],
        [0.0, 2.0],
        [pytest.approx(1.2), pytest.approx(1.6)],
        [0.0, 1.0],
        [pytest.approx(1.2), pytest.approx(-1.6)],
    ]
    assert [(update.user, update.examples) for update in clipped] == [(n, 5) for n in range(5)]


def test_the_median_is_taken_coordinate_by_coordinate() -> None:
    (median,) = rule("median", 0.2, updates(*GIVEN))
    assert values([median]) == [[1.0, 1.0]]
    assert median.user == -1
    # For an even number it is the mean of the two middle values.
    assert values(rule("median", 0.2, updates(*GIVEN[:4]))) == [[0.5, 1.5]]


def test_the_trimmed_mean_drops_a_share_at_both_ends() -> None:
    # ⌊0.2·5⌋ = 1: 0, 0, 1, 3, 90 becomes 0, 1, 3, and −120, 0, 1, 2, 4 becomes 0, 1, 2.
    assert values(rule("trimmed_mean", 0.2, updates(*GIVEN))) == [[pytest.approx(4 / 3), 1.0]]


def test_krum_selects_the_update_with_the_nearest_neighbours() -> None:
    # K = 5, f = 1: the two nearest count. [0, 1] is at distance 1 from [0, 2] and √2 from [1, 0]: 1 + 2 = 3, the least.
    (selected,) = rule("krum", 0.2, updates(*GIVEN))
    assert (selected.user, selected.examples) == (3, 5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.34])
def test_rules_agree_with_numpy_and_flower(share: float) -> None:
    generator = torch.Generator().manual_seed(7)
    given = updates(*torch.randn(9, 2, generator=generator).tolist())
    points = np.array(values(given))
    assert np.allclose(values(rule("median", share, given)), np.median(points, axis=0))
    assert np.allclose(values(rule("trimmed_mean", share, given)), trim_mean(points, share))
    contents = [RecordDict({"arrays": ArrayRecord({"x": Array(point)})}) for point in points]
    (theirs,) = select_multikrum(contents, int(share * 9), 1)
    (ours,) = rule("krum", share, given)
    assert np.allclose(theirs.array_records["arrays"]["x"].numpy(), values([ours])[0])


def triple() -> Tensors:
    return {
        "shared_x.1.R": torch.eye(2, 3),
        "shared_x.1.W": torch.eye(2, 3),
        "shared_x.1.b": torch.zeros(2),
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"shared_x.1.b": torch.tensor([0.0, math.nan])}, "tensor 'shared_x.1.b' is not finite"),
        ({"shared_x.1.b": torch.tensor([0.0, -math.inf])}, "tensor 'shared_x.1.b' is not finite"),
        ({"shared_x.1.b": torch.zeros(3)}, "tensor 'shared_x.1.b' is (3,) float32, expected (2,) float32"),
        ({"shared_x.1.b": torch.zeros(2).double()}, "tensor 'shared_x.1.b' is (2,) float64, expected (2,) float32"),
        ({"shared_x.2.b": torch.zeros(2)}, "tensor 'shared_x.2.b' is not expected"),
        (
            {"shared_x.1.R": 1.01 * torch.eye(2, 3)},
            "tensor 'shared_x.1.R' is not row-orthonormal: RRᵀ − I has an entry of 0.02",
        ),
    ],
)
def test_the_fault_of_a_bad_update_is_named(change: Tensors, fault: str | None) -> None:
    assert find_fault(triple() | change, triple(), 3) == fault


def test_a_missing_tensor_and_a_weight_that_is_not_positive_are_refused() -> None:
    lacking = triple()
    del lacking["shared_x.1.W"]
    assert find_fault(lacking, triple(), 3) == "tensor 'shared_x.1.W' is missing"
    assert find_fault(triple(), triple(), 0) == "0 examples"
    assert find_fault(triple(), triple(), -2) == "-2 examples"


def test_the_length_of_a_step_is_over_all_its_tensors() -> None:
    moved = triple() | {"shared_x.1.b": torch.tensor([3.0, 0.0]), "shared_x.1.W": torch.eye(2, 3) + 2.0}
    assert step_norm(moved, triple()) == pytest.approx(math.sqrt(9 + 6 * 4))
