"""BM25 retrieval from a user's own history (Robertson and Zaragoza, 2009), by the library bm25s."""

import logging
from collections.abc import Sequence
from functools import lru_cache

import bm25s
import numpy as np

from strategies.client_tools import TextPair

# The library sets its own logger to DEBUG, which would print a line for every index.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def best_matches(items: Sequence[TextPair], question: str, k: int) -> list[TextPair]:
    """Return the k items whose texts match a question best, the best first; of equal ones the latest.

    Lucene's variant, score(q, d) = Σ_t idf(t) · f / (f + k₁(1 − b + b|d|/mean |d|)) over the question's words t, with
    f the count of t in d, idf(t) = ln(1 + (N − n_t + ½)/(n_t + ½)), k₁ = 1.5 and b = 0.75. Answers are not searched.

    Args:
        items: The history, in the order of time.
        question: The text to match.
        k: How many; fewer items than that are all returned.
    """
    if not k:
        return []
    scores = match_scores([item.source for item in items], question)
    # Stable, so that an equal score goes to the later item.
    order = np.argsort(-scores[::-1], kind="stable")[:k]
    return [items[len(items) - 1 - place] for place in order.tolist()]


def match_scores(texts: Sequence[str], question: str) -> np.ndarray:
    """Return the BM25 score of each text for a question; shape [texts], fp32; 0 without a word of two letters."""
    index, (words,) = _index(tuple(texts)), _words([question])
    return index.get_scores(words) if index and words else np.zeros(len(texts), dtype=np.float32)


@lru_cache(maxsize=1)
def _index(texts: tuple[str, ...]) -> bm25s.BM25 | None:
    """Index a history for all questions to it; None if it has no word, which the library does not expect."""
    words = _words(texts)
    if not any(words):
        return None
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(words, show_progress=False)
    return index


def _words(texts: Sequence[str]) -> list[list[str]]:
    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords=None, return_ids=False, show_progress=False)
    return words
