"""What an attacker reads from clients' updates: who sent one, the sender's usual answer, the sender's tastes."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from simulations.experiments.audit.schema import Guess

_RESAMPLES = 1000


def link(first: np.ndarray, second: np.ndarray) -> Guess:
    """Name the sender of each update in `second` by the most similar one in `first`, by cosine; [users, numbers]."""
    one, other = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (first, second))
    named = (other @ one.T).argmax(axis=1)
    return _guess(named == np.arange(len(first)), 1 / len(first))


def infer_answer(updates: np.ndarray, answers: Sequence[str]) -> Guess:
    """Infer a label of every user from its update, leaving that user out.

    Args:
        updates: [users, numbers].
        answers: One label per user.
    """
    names = sorted(set(answers))
    truth = np.array([names.index(answer) for answer in answers])
    predicted = _left_out(updates, np.eye(len(names))[truth]).argmax(axis=1)
    return _guess(predicted == truth, float(np.bincount(truth).max() / len(answers)))


def infer_taste(updates: np.ndarray, worths: Sequence[np.ndarray], seed: int) -> Guess:
    """Infer which of two options every user prefers, over all pairs of options of a slot, leaving that user out.

    By chance: what the mean of the other users' worths says. The interval resamples users.

    Args:
        updates: [users, numbers].
        worths: For every slot, [users, options].
        seed: Of the bootstrap.
    """
    right, guessed = [], []
    for slot in worths:
        one, other = np.triu_indices(slot.shape[1], 1)
        truth = slot[:, one] > slot[:, other]
        predicted, others = _left_out(updates, slot), (slot.sum(axis=0) - slot) / (len(slot) - 1)
        right.append((predicted[:, one] > predicted[:, other]) == truth)
        guessed.append((others[:, one] > others[:, other]) == truth)
    by_user = np.concatenate(right, axis=1).mean(axis=1)
    drawn = np.random.default_rng(seed).choice(by_user, (_RESAMPLES, len(by_user))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Guess(
        accuracy=float(by_user.mean()),
        interval=(float(low), float(high)),
        by_chance=float(np.concatenate(guessed, axis=1).mean()),
        users=len(by_user),
    )


def _left_out(updates: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predict each user's row of `y` from its update by ridge regression on the other users.

    On centred updates leave-one-out predictions follow from the hat matrix H = 11ᵀ/n + K(K + λI)⁻¹:
    (Hy − diag(H)y)/(1 − diag(H)).
    """
    count = len(updates)
    centred = updates - updates.mean(axis=0)
    centred = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)
    K = centred @ centred.T
    centre = np.eye(count) - 1 / count
    K = centre @ K @ centre
    H = 1 / count + K @ np.linalg.inv(K + 0.1 * np.trace(K) / count * np.eye(count) + 1e-12 * np.eye(count))
    leverage = np.diag(H)[:, None]
    predicted: np.ndarray = (H @ y - leverage * y) / np.maximum(1 - leverage, 1e-9)
    return predicted


def _guess(right: np.ndarray, by_chance: float) -> Guess:
    bounds = stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95)
    return Guess(
        accuracy=float(right.mean()),
        interval=(float(bounds.low), float(bounds.high)),
        by_chance=by_chance,
        users=len(right),
    )
