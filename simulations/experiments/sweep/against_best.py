"""Whether the cells of a sweep differ from its best one by more than noise."""

from collections.abc import Sequence

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.significance import holm, paired_test
from simulations.experiments.sweep.schema import SweepCell


def with_tests(cells: Sequence[SweepCell], runs: Sequence[Sequence[Run]], lower_is_better: bool) -> list[SweepCell]:
    """Test every cell against the best one, where both have the same users.

    The best cell is chosen by the same answers, so it is a little better by luck; a cell that cannot be told from it is
    as good as it, as far as the sweep can tell.

    Args:
        cells: Of one sweep.
        runs: Each cell's, one per seed.
        lower_is_better: Of the metric.

    Returns:
        The cells with `against_best`.
    """
    better = min if lower_is_better else max
    best = better(range(len(cells)), key=lambda place: cells[place].quality.mean)
    others = [place for place in range(len(cells)) if place != best and _same_users(runs[place], runs[best])]
    tests = holm([paired_test(runs[place], runs[best]) for place in others])
    tested = list(cells)
    for place, test in zip(others, tests, strict=True):
        tested[place] = cells[place].model_copy(update={"against_best": test})
    return tested


def _same_users(one: Sequence[Run], other: Sequence[Run]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(mine.record.users.data_sha256 == theirs.record.users.data_sha256 for mine, theirs in pairs)
