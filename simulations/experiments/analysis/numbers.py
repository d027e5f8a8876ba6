"""Figures of δ-vectors: singular values, the collective direction, the control. Everything in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARES = (0.80, 0.85, 0.90, 0.95)
"""Shares of variance for which ranks are reported (PerFit, Tables 1 and 5)."""
COORDINATES = 5
_PERMUTATIONS = 1000


@dataclass(frozen=True)
class Decomposition:
    """δ = U Σ Vᵀ of one site's vectors, not centred: the mean is what the paper calls the collective shift."""

    vectors: np.ndarray
    """[users, d]."""
    singular: np.ndarray
    """Σ, in falling order."""
    directions: np.ndarray
    """Vᵀ, [rank, d], signed so that the mean has coordinates of at least 0."""

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Decomposition":
        """Decompose vectors [users, d]; at least one."""
        wide = np.asarray(vectors, dtype=np.float64)
        _, singular, directions = np.linalg.svd(wide, full_matrices=False)
        signs = np.sign(directions @ wide.mean(axis=0))
        return cls(wide, singular, directions * np.where(signs == 0, 1.0, signs)[:, None])

    def rank(self, share: float) -> int:
        """Return the fewest directions that hold a share of Σσ²."""
        held = np.cumsum(self.singular**2) / np.sum(self.singular**2)
        return int(np.searchsorted(held, share - 1e-12)) + 1

    def coordinates(self, vectors: np.ndarray | None = None, count: int = COORDINATES) -> np.ndarray:
        """Return vectors' coordinates along the first directions, [users, count]; by default its own."""
        chosen = self.vectors if vectors is None else np.asarray(vectors, dtype=np.float64)
        return np.asarray(chosen @ self.directions[:count].T)

    @property
    def mean_share(self) -> float:
        """‖mean δ‖² / mean ‖δ‖²: 1 if all users' vectors are the same, about 1/users if they have nothing in common."""
        mean = self.vectors.mean(axis=0)
        return float(mean @ mean / np.mean(np.sum(self.vectors**2, axis=1)))


def nearest_first(vectors: np.ndarray) -> np.ndarray:
    """Return the order of users by the angle between their vector and the mean, the smallest first."""
    wide = np.asarray(vectors, dtype=np.float64)
    mean = wide.mean(axis=0)
    cosines = wide @ mean / (np.linalg.norm(wide, axis=1) * np.linalg.norm(mean))
    return np.argsort(-cosines, kind="stable")


def cosines_of_means(groups: Sequence[np.ndarray]) -> list[list[float]]:
    """Return the cosine of every group's mean vector with every other's.

    Args:
        groups: [users, d] each.
    """
    means = np.stack([np.asarray(group, dtype=np.float64).mean(axis=0) for group in groups])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines: list[list[float]] = (means @ means.T).tolist()
    return cosines


def share_in_span(direction: np.ndarray, R: np.ndarray) -> float:
    """Return the share of ‖direction‖² inside the row span of R [r, d], RRᵀ = I; r/d by chance."""
    inside = R.astype(np.float64) @ direction
    return float(inside @ inside / (direction @ direction))


def mantel(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float] | None:
    """Return the correlation of two sets' pairwise distances, and its one-sided permutation p (Mantel, 1967).

    None if all distances of one set are equal.

    Args:
        one: [n, a], a row for each of n ≥ 3 users.
        other: [n, b], likewise.
        seed: Of the permutations.
    """
    first, second = (np.linalg.norm(rows[:, None] - rows[None], axis=2) for rows in (one, other))
    above = np.triu_indices(len(one), 1)

    def correlation(order: np.ndarray) -> float:
        return float(np.corrcoef(first[above], second[np.ix_(order, order)][above])[0, 1])

    if min(np.ptp(first[above]), np.ptp(second[above])) == 0:
        return None
    observed = correlation(np.arange(len(one)))
    draw = np.random.default_rng(seed)
    as_large = sum(correlation(draw.permutation(len(one))) >= observed for _ in range(_PERMUTATIONS))
    return observed, (1 + as_large) / (1 + _PERMUTATIONS)
