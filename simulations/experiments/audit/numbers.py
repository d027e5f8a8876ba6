"""Figures of attacks: AUC with intervals, likelihood ratios over shadow runs, attributes, links, bounds on ε."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from simulations.experiments.audit.schema import Attack, Guess

_RESAMPLES = 1000
_FEWEST_FOR_TAIL = 100

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
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = generator.choice(list(members), len(members))
        apart = drawn if together else generator.choice(list(others), len(others))
        resampled.append(auc(np.concatenate([members[u] for u in drawn]), np.concatenate([others[u] for u in apart])))
    low, high = np.quantile(resampled, [0.025, 0.975])
    tail = None
    if len(outside) >= _FEWEST_FOR_TAIL:
        # The highest allowed number of false alarms is ⌊n/100⌋.
        threshold = np.sort(outside)[::-1][len(outside) // 100]
        tail = float((inside > threshold).mean())
    return Attack(
        auc=auc(inside, outside),
        interval=(float(low), float(high)),
        tpr_at_1_percent=tail,
        members=len(inside),
        non_members=len(outside),
    )


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
    found = stats.binomtest(hits, len(members)).proportion_ci(0.95).low
    false = stats.binomtest(alarms, len(others)).proportion_ci(0.95).high
    return max(0.0, math.log((found - delta) / false)) if found > delta else 0.0


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
    return {user: np.array(found) for user, found in members.items()}, {
        user: np.array(found) for user, found in others.items()
    }


def link(first: np.ndarray, second: np.ndarray) -> Guess:
    """Name the sender of each update in `second` by the most similar one in `first`, by cosine; [users, numbers]."""
    one, other = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (first, second))
    named = (other @ one.T).argmax(axis=1)
    return _guess(named == np.arange(len(first)), 1 / len(first))


def infer(updates: np.ndarray, answers: Sequence[str]) -> Guess:
    """Infer a label of every user from its update, leaving that user out.

    Ridge regression of the labels' indicators on the centred updates, whose leave-one-out predictions follow from the
    hat matrix H = 11ᵀ/n + K(K + λI)⁻¹: (Hy − diag(H)y)/(1 − diag(H)).

    Args:
        updates: [users, numbers].
        answers: One label per user.
    """
    names = sorted(set(answers))
    truth = np.array([names.index(answer) for answer in answers])
    y = np.eye(len(names))[truth]
    count = len(answers)
    centred = updates - updates.mean(axis=0)
    centred = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)
    K = centred @ centred.T
    centre = np.eye(count) - 1 / count
    K = centre @ K @ centre
    H = 1 / count + K @ np.linalg.inv(K + 0.1 * np.trace(K) / count * np.eye(count) + 1e-12 * np.eye(count))
    own = np.diag(H)[:, None]
    predicted = ((H @ y - own * y) / np.maximum(1 - own, 1e-9)).argmax(axis=1)
    return _guess(predicted == truth, float(np.bincount(truth).max() / count))


def _guess(right: np.ndarray, by_chance: float) -> Guess:
    bounds = stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95)
    return Guess(
        accuracy=float(right.mean()),
        interval=(float(bounds.low), float(bounds.high)),
        by_chance=by_chance,
        users=len(right),
    )
