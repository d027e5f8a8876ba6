"""Whether a difference between methods is more than noise: paired tests over users, bootstrap intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import per_user
from simulations.experiments.comparison.schema import PairedTest

SIGNIFICANCE = 0.05

_RESAMPLES = 9999


def paired_test(
    own: Sequence[Run],
    reference: Sequence[Run],
    rounds: Mapping[int, int] | None = None,
    reference_rounds: Mapping[int, int] | None = None,
) -> PairedTest:
    """Compare two lists of runs user by user: a two-sided paired sign-flip permutation test of the mean difference.

    `interval` is a 95 % bootstrap interval of that mean over users; None for fewer than two users.

    A user of real data who occurs with several seeds counts once, with the mean of the differences; synthetic users of
    different seeds are different users. Users have equal weight, however many questions they have. Randomness in
    training is not covered, since users of one seed share its training runs; `per_seed`, the difference for each seed,
    gives an idea of it.

    Args:
        own: One run per seed.
        reference: The reference's runs, with the same seeds and target users.
        rounds: The evaluated round to compare, by seed; None: the last.
        reference_rounds: The same for the reference.
    """
    differences: dict[tuple[object, ...], list[float]] = {}
    by_seed: dict[int, list[float]] = {}
    ours, theirs = (
        {run.record.seed: per_user(run, numbers[run.record.seed] if numbers else None) for run in runs}
        for runs, numbers in ((own, rounds), (reference, reference_rounds))
    )
    for run in own:
        seed = run.record.seed
        for user, value in ours[seed].items():
            # Synthetic users of different seeds are different users, even with the same id.
            person = (seed, user) if run.record.users.source == "synthetic" else (user,)
            differences.setdefault(person, []).append(value - theirs[seed][user])
            by_seed.setdefault(seed, []).append(value - theirs[seed][user])
    values = np.array([np.mean(of_user) for of_user in differences.values()])
    if not values.any() or len(values) < 2:
        p_value = 1.0
    else:
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
        )
        p_value = float(test.pvalue)
    return PairedTest(
        difference=float(values.mean()),
        per_seed=[float(np.mean(by_seed[seed])) for seed in sorted(by_seed)],
        interval=_interval(values),
        p_value=p_value,
        users=len(values),
        within_noise=p_value >= SIGNIFICANCE,
    )


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)
