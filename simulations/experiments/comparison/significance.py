"""Whether a difference between methods is more than noise: paired tests over users, bootstrap intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import per_user

SIGNIFICANCE = 0.05

_RESAMPLES = 9999


def paired_test(
    own: Sequence[Run],
    reference: Sequence[Run],
    rounds: Mapping[int, int] | None = None,
    reference_rounds: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Compare two lists of runs user by user: a paired sign-flip permutation test of the mean difference, two-sided.

    `interval` is a 95 % interval of that mean, by resampling users; None of fewer than two.

    A user of real data who is there with several seeds is one user, whose differences are averaged first; synthetic
    users of another seed are other people. Users count alike, however many questions they have. Chance in training is
    not counted: users of a seed share its trainings. `per_seed`, the difference with each seed, hints at it.

    Args:
        own: One run a seed.
        reference: As many, with the same seeds and target users.
        rounds: The evaluated round that is meant, by seed; None: the last.
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
            # Synthetic users of another seed are other people, whatever they are called.
            person = (seed, user) if run.record.users.source == "synthetic" else (user,)
            differences.setdefault(person, []).append(value - theirs[seed][user])
            by_seed.setdefault(seed, []).append(value - theirs[seed][user])
    values = np.array([np.mean(each) for each in differences.values()])
    if not values.any() or len(values) < 2:
        p_value = 1.0
    else:
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
        )
        p_value = float(test.pvalue)
    return {
        "difference": float(values.mean()),
        "per_seed": [float(np.mean(by_seed[seed])) for seed in sorted(by_seed)],
        "interval": _interval(values),
        "p_value": p_value,
        "users": len(values),
        "within_noise": p_value >= SIGNIFICANCE,
    }


def _interval(values: np.ndarray) -> list[float] | None:
    if len(values) < 2:
        return None
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]
