"""Whether a difference between methods is more than noise, over users and over seeds.

A difference could come from the users who happen to be evaluated, or from the trainings, which users of a seed share.
Both are tested, and the weaker of the two results counts (an intersection-union test: Berger, Technometrics 1982), so
that the error rate holds for both.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import per_user
from simulations.experiments.comparison.schema import PairedTest

SIGNIFICANCE = 0.05

_RESAMPLES = 9999


def paired_test(
    runs: Sequence[Run],
    reference: Sequence[Run],
    rounds: Mapping[int, int] | None = None,
    reference_rounds: Mapping[int, int] | None = None,
) -> PairedTest:
    """Compare two lists of runs user by user (`differences_test`).

    Args:
        runs: One run per seed.
        reference: The reference's runs, with the same seeds and target users.
        rounds: The evaluated round to compare, by seed; None: the last.
        reference_rounds: The same for the reference.
    """
    ours, theirs = (
        {run.record.seed: per_user(run, numbers[run.record.seed] if numbers else None) for run in one}
        for one, numbers in ((runs, rounds), (reference, reference_rounds))
    )
    differences = {
        seed: {user: value - theirs[seed][user] for user, value in of_seed.items()} for seed, of_seed in ours.items()
    }
    return differences_test(differences, runs[0].record.users.source)


def differences_test(by_seed: Mapping[int, Mapping[str, float]], source: str) -> PairedTest:
    """Test whether users' differences are more than noise.

    Over users: a two-sided sign-flip permutation test of the mean difference and a bootstrap interval. A user of real
    data who occurs with several seeds counts once, with the mean of the differences; synthetic users of different seeds
    are different users. Users have equal weight, however many questions they have.

    Over seeds: Student's t of the differences of the seeds, which vary with trainings, cohorts and users. One seed
    says nothing about that variation.

    The p-value is the larger of the two, the interval covers both; `holm` adjusts `p_adjusted` later.

    Args:
        by_seed: The differences by seed, then user id.
        source: `users.source` of the runs.
    """
    by_person: dict[tuple[object, ...], list[float]] = {}
    for seed, of_seed in by_seed.items():
        for user, value in of_seed.items():
            # Synthetic users of different seeds are different users, even with the same id.
            person = (seed, user) if source == "synthetic" else (user,)
            by_person.setdefault(person, []).append(value)
    values = np.array([np.mean(of_person) for of_person in by_person.values()])
    per_seed = np.array([np.mean(list(by_seed[seed].values())) for seed in sorted(by_seed)])
    p_users, p_seeds = _p_over_users(values), _p_over_seeds(per_seed)
    p_value = max(p_users, p_seeds or 0.0)
    return PairedTest(
        difference=float(values.mean()),
        per_seed=per_seed.tolist(),
        interval=_hull(_interval_over_users(values), _interval_over_seeds(per_seed)),
        p_users=p_users,
        p_seeds=p_seeds,
        p_value=p_value,
        p_adjusted=p_value,
        users=len(values),
        within_noise=p_value >= SIGNIFICANCE,
    )


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Adjust the p-values of one table's tests, so that a false difference anywhere in it has probability ≤ 0.05.

    The k-th smallest of n p-values is multiplied by n − k + 1, and none becomes smaller than one before it (Holm,
    Scandinavian Journal of Statistics 1979).
    """
    order = sorted(range(len(tests)), key=lambda place: tests[place].p_value)
    adjusted = list(tests)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[place].p_value))
        update = {"p_adjusted": largest, "within_noise": largest >= SIGNIFICANCE}
        adjusted[place] = tests[place].model_copy(update=update)
    return adjusted


def _p_over_users(values: np.ndarray) -> float:
    if not values.any() or len(values) < 2:
        return 1.0
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(test.pvalue)


def _p_over_seeds(per_seed: np.ndarray) -> float | None:
    if len(per_seed) < 2:
        return None
    if np.ptp(per_seed) == 0:
        return 0.0 if per_seed.any() else 1.0
    return float(stats.ttest_1samp(per_seed, 0).pvalue)


def _interval_over_seeds(per_seed: np.ndarray) -> tuple[float, float] | None:
    if len(per_seed) < 2:
        return None
    error = float(stats.sem(per_seed) * stats.t.ppf(0.975, len(per_seed) - 1))
    return float(per_seed.mean()) - error, float(per_seed.mean()) + error


def _hull(one: tuple[float, float] | None, other: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the smallest interval that covers both."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _interval_over_users(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    bounds = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(bounds.low), float(bounds.high)
