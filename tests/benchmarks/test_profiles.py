"""When a network is paid back, and users who are unlike the others."""

import numpy as np
import pytest

from benchmarks.break_even import break_even
from benchmarks.clusters import cluster, held_out


@pytest.mark.parametrize(
    ("newcomer", "expected"),
    # 100 s more than the other's stage 1, 160 s in all; 4 s saved with every newcomer.
    [
        (1.0, {"with the other's stage 1": 25, "without it": 40}),
        (5.0, dict.fromkeys(["with the other's stage 1", "without it"])),
    ],
)
def test_the_network_is_paid_back_by_what_newcomers_save(newcomer: float, expected: dict[str, int | None]) -> None:
    ours, theirs = {"stage 1": 160.0, "a newcomer": newcomer}, {"stage 1": 60.0, "a newcomer": 5.0}
    assert break_even(ours, theirs) == expected


def test_a_small_cluster_far_from_the_others_is_held_out_whole() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0, 0], [0, 4], [4, 0], [30, 30]])
    sizes = [12, 12, 12, 4]
    vectors = np.concatenate(
        [centre + 0.1 * random.normal(size=(size, 2)) for centre, size in zip(centres, sizes, strict=True)]
    )
    labels = cluster(vectors)
    assert len(set(labels.tolist())) == 4
    assert held_out(vectors, labels, 6).nonzero()[0].tolist() == [36, 37, 38, 39]
    assert held_out(vectors, labels, 3).sum() == 0
