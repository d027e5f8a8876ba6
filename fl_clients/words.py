"""Counts of a text's words at hashed places."""

import re
import zlib

import numpy as np


def word_counts(text: str, places: int) -> np.ndarray:
    """Return how many of a text's words, in lower case, are hashed to each place, [places]."""
    hashed = [zlib.crc32(word.encode()) % places for word in re.findall(r"\w+", text.lower())]
    return np.bincount(np.array(hashed, dtype=np.int64), minlength=places)
