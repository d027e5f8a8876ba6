"""Figures of attacks that rank: AUC with intervals, likelihood ratios over shadow runs, exposure, bounds on ε."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from simulations.experiments.audit.schema import Attack, Bits

_RESAMPLES = 1000
_FEWEST_FOR_TAIL = 100
_FEWEST_FOR_INTERVAL = 5
_LEVEL = 0.05

Scores = Mapping[int, np.ndarray]
"""The scores of each user's items, by partition."""


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return the chance that a member's score is above another's, ties counting half (Mann-Whitney)."""
    ranks = stats.rankdata(np.concatenate([members, others]))
    count = len(members)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(others)))


def attack(members: Scores, others: Scores, seed: int) -> Attack:
    """Rank items by score; the interval resamples users, whose items belong together.

    A user that has both kinds of items (`members` and `others` have the same keys) is drawn with both.

    Args:
        members: Scores of what was trained on.
        others: Scores of what was not.
        seed: Of the bootstrap.
    """
    inside, outside = np.concatenate(list(members.values())), np.concatenate(list(others.values()))
    generator = np.random.default_rng(seed)
    together = members.keys() == others.keys()
    areas, at_1_percent = [], []
    for _ in range(_RESAMPLES):
        drawn = generator.choice(list(members), len(members))
        apart = drawn if together else generator.choice(list(others), len(others))
        one, other = np.concatenate([members[u] for u in drawn]), np.concatenate([others[u] for u in apart])
        areas.append(auc(one, other))
        at_1_percent.append(_found_at_1_percent(one, other))
    tail = len(outside) >= _FEWEST_FOR_TAIL
    return Attack(
        auc=auc(inside, outside),
        interval=_interval(areas),
        tpr_at_1_percent=_found_at_1_percent(inside, outside) if tail else None,
        tpr_interval=_interval(at_1_percent) if tail else None,
        members=len(inside),
        non_members=len(outside),
    )


def _found_at_1_percent(members: np.ndarray, others: np.ndarray) -> float:
    # The highest allowed number of false alarms is ⌊n/100⌋.
    threshold = np.sort(others)[::-1][len(others) // 100]
    return float((members > threshold).mean())


def _interval(resampled: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def exposure(score: float, candidates: np.ndarray) -> float:
    """Return log₂(n + 1) − log₂(rank) of a canary among n candidates, in bits; higher scores rank first."""
    # A tie counts half, as in the AUC, so that a model that tells nothing apart reveals nothing.
    rank = 1 + float((candidates > score).sum()) + float((candidates == score).sum()) / 2
    return math.log2((len(candidates) + 1) / rank)


def mean_bits(values: Sequence[float], seed: int) -> Bits | None:
    """Return the mean with its interval over users; None without users."""
    if not values:
        return None
    drawn = np.random.default_rng(seed).choice(values, (_RESAMPLES, len(values)))
    interval = _interval(drawn.mean(axis=1).tolist()) if len(values) >= _FEWEST_FOR_INTERVAL else None
    return Bits(mean=float(np.mean(values)), interval=interval, users=len(values))


def means(scores: Scores) -> dict[int, np.ndarray]:
    """Return each user's mean score as its only one."""
    return {user: np.array([values.mean()]) for user, values in scores.items()}


def epsilon_suggested(members: np.ndarray, others: np.ndarray, delta: float) -> float:
    """Return what "member if above the median of all" suggests of ε: ln((TPR − δ)/FPR), at least 0.

    With Clopper-Pearson bounds of 97.5 % each, as if users were independent runs. It proves nothing: for that, a coin
    must have drawn each user of one run (Steinke et al., arXiv 2305.08846).

    Args:
        members: One score per user that took part.
        others: One per user that did not.
        delta: δ.
    """
    threshold = float(np.median(np.concatenate([members, others])))
    hits, alarms = int((members > threshold).sum()), int((others > threshold).sum())
    least = stats.binomtest(hits, len(members)).proportion_ci(0.95).low
    false = stats.binomtest(alarms, len(others)).proportion_ci(0.95).high
    return max(0.0, math.log((least - delta) / false)) if least > delta else 0.0


def epsilon_proved(scores: np.ndarray, inside: np.ndarray, delta: float) -> float:
    """Return the ε that guessing fair coins in one run proves, with 95 % confidence (Steinke et al., arXiv 2305.08846).

    The half with the highest scores is guessed to be in. With ε and δ, the number of right guesses among m reaches v
    with a probability of at most P[B ≥ v] + 2mδ·max_i P[v − i ≤ B < v]/i, B binomial with m and e^ε/(1 + e^ε)
    (theorem 5.2); the bound is the least ε for which that is 5 % or more.

    Args:
        scores: One per user.
        inside: Whether the user's coin put its canary in.
        delta: δ.
    """
    count = len(scores)
    order = stats.rankdata(scores, method="ordinal")
    right = int(((order > count / 2) == inside).sum())

    def probability(epsilon: float) -> float:
        guesses = stats.binom(count, 1 / (1 + math.exp(-epsilon)))
        below = np.cumsum(guesses.pmf(np.arange(right - 1, -1, -1)))
        worst = float((below / np.arange(1, right + 1)).max(initial=0.0))
        return float(guesses.sf(right - 1)) + 2 * count * delta * worst

    if probability(0.0) >= _LEVEL:
        return 0.0
    return float(optimize.brentq(lambda epsilon: probability(epsilon) - _LEVEL, 0.0, 50.0))


def likelihood_ratios(losses: np.ndarray, inside: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return each user's scores in the runs that it was in, and in those that it was not (LiRA, arXiv 2112.03570).

    Run i is judged by the others: −loss is Gaussian with a mean for "in" and one for "out" of the user's own, and one
    deviation for all, because the runs are few. The score is the log of the likelihoods' ratio.

    Args:
        losses: Mean loss of a user's items in a run [runs, users].
        inside: Whether the user trained in the run [runs, users].
    """
    runs, users = losses.shape
    members: dict[int, list[float]] = {}
    others: dict[int, list[float]] = {}
    for judged in range(runs):
        rest = np.arange(runs) != judged
        known = inside[rest]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_in = np.where(known, -losses[rest], 0).sum(axis=0) / known.sum(axis=0)
            mean_out = np.where(known, 0, -losses[rest]).sum(axis=0) / (~known).sum(axis=0)
        residual = -losses[rest] - np.where(known, mean_in, mean_out)
        deviation = math.sqrt(float(np.nanmean(np.square(residual)))) or 1.0
        for user in range(users):
            if not (known[:, user].any() and (~known[:, user]).any()):
                continue
            score = -losses[judged, user]
            ratio = ((score - mean_out[user]) ** 2 - (score - mean_in[user]) ** 2) / (2 * deviation**2)
            (members if inside[judged, user] else others).setdefault(user, []).append(float(ratio))
    return {user: np.array(ratios) for user, ratios in members.items()}, {
        user: np.array(ratios) for user, ratios in others.items()
    }
