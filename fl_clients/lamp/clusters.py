"""Groups of users whose answers are alike, for targets that are unlike all collective users."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from fl_clients.words import word_counts

_PLACES = 512
"""Places that words are hashed to."""
_CLUSTERS = 10
_LEAST = 4
"""Users for each cluster, on average, at least."""


def clusters(answers: Sequence[Sequence[str]], seed: int) -> list[list[int]]:
    """Cluster users by the words of their answers, the most unusual cluster first.

    k-means of the words' counts, of length 1, with at most 10 clusters. Users without answers count as average.

    Args:
        answers: Each user's.
        seed: Decides the first centres.

    Returns:
        The clusters' members, as indices of `answers`; those whose centres lie farther from the mean of all first.
    """
    counts = np.array([word_counts("\n".join(texts), _PLACES) for texts in answers], dtype=float)
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    vectors = np.divide(counts, lengths, out=np.zeros_like(counts), where=lengths > 0)
    mean = vectors[lengths[:, 0] > 0].mean(axis=0) if lengths.any() else np.zeros(_PLACES)
    vectors[lengths[:, 0] == 0] = mean
    count = max(2, min(_CLUSTERS, len(counts) // _LEAST))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Users who are all alike.
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, member_of = kmeans2(vectors, count, minit="++", rng=np.random.default_rng(seed))
    far = np.linalg.norm(centres - mean, axis=1)
    by_distance = [np.flatnonzero(member_of == cluster).tolist() for cluster in np.argsort(-far, kind="stable")]
    return [members for members in by_distance if members]
