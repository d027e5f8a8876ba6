"""Rules against bad updates: by hand on small numbers, and against Flower's own."""

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
    norms = [step_norm(each.shared, START) for each in given]
    return list(apply_rule(name, share, given, norms, START))


def values(found: list[Update]) -> list[list[float]]:
    return [each.shared["shared_x.1.b"].tolist() for each in found]


GIVEN = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 1.0], [90.0, -120.0]]


def test_without_a_rule_everything_passes() -> None:
    assert values(rule("none", 0.2, updates(*GIVEN))) == GIVEN


def test_clipping_shortens_to_the_median_length() -> None:
    # Lengths 1, 2, 5, 1, 150; the median is 2.
    found = rule("clip", 0.2, updates(*GIVEN))
    assert values(found) == [
        [1.0, 0.0],
        [0.0, 2.0],
        [pytest.approx(1.2), pytest.approx(1.6)],
        [0.0, 1.0],
        [pytest.approx(1.2), pytest.approx(-1.6)],
    ]
    assert [(each.user, each.examples) for each in found] == [(n, 5) for n in range(5)]


def test_the_median_is_taken_coordinate_by_coordinate() -> None:
    (found,) = rule("median", 0.2, updates(*GIVEN))
    assert values([found]) == [[1.0, 1.0]]
    assert found.user == -1
    # Of an even number it is the middle of the two in the middle.
    assert values(rule("median", 0.2, updates(*GIVEN[:4]))) == [[0.5, 1.5]]


def test_the_trimmed_mean_leaves_a_share_out_at_either_end() -> None:
    # ⌊0.2·5⌋ = 1: of 0, 0, 1, 3, 90 remain 0, 1, 3; of −120, 0, 1, 2, 4 remain 0, 1, 2.
    assert values(rule("trimmed_mean", 0.2, updates(*GIVEN))) == [[pytest.approx(4 / 3), 1.0]]


def test_krum_takes_who_has_the_nearest_neighbours() -> None:
    # K = 5, f = 1: two nearest. [0, 1] has [0, 2] at 1 and [1, 0] at √2: 1 + 2 = 3; no other sum is as small.
    (found,) = rule("krum", 0.2, updates(*GIVEN))
    assert (found.user, found.examples) == (3, 5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.34])
def test_it_agrees_with_flowers_own(share: float) -> None:
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
def test_an_update_is_refused_for_what_is_wrong_with_it(change: Tensors, fault: str | None) -> None:
    assert find_fault(triple() | change, triple(), 3) == fault


def test_a_missing_tensor_and_a_weight_of_nothing_are_refused() -> None:
    lacking = triple()
    del lacking["shared_x.1.W"]
    assert find_fault(lacking, triple(), 3) == "tensor 'shared_x.1.W' is missing"
    assert find_fault(triple(), triple(), 0) == "0 examples"
    assert find_fault(triple(), triple(), -2) == "-2 examples"


def test_a_step_is_as_long_as_all_its_tensors_together() -> None:
    moved = triple() | {"shared_x.1.b": torch.tensor([3.0, 0.0]), "shared_x.1.W": torch.eye(2, 3) + 2.0}
    assert step_norm(moved, triple()) == pytest.approx(math.sqrt(9 + 6 * 4))
