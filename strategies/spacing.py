"""Where the sites are: a list of decoder blocks, or a spacing that fits any number of blocks."""

import re
from collections.abc import Sequence

_EVERY = re.compile(r"every ([1-9]\d*)")
_SPREAD = re.compile(r"([1-9]\d*) spread")
_DEPTH = 0.8
"""The deepest of spread sites lies at this share of the blocks: the last ones only turn the stream into words."""


def read_sites(given: str | Sequence[int], blocks: int, key: str = "sites") -> list[int]:
    """Return the decoder blocks that sites are at, counted from 0, in increasing order.

    Args:
        given: A list; `every n`: blocks n, 2n and so on; or `n spread`: n sites at equal distances down to four fifths
            of the depth, fewer in a backbone that has fewer blocks.
        blocks: The backbone's number of decoder blocks.
        key: The config key, for errors.

    Raises:
        ValueError: It is none of these, or gives no site.
    """
    if not isinstance(given, str):
        return list(given)
    if every := _EVERY.fullmatch(given):
        sites = list(range(int(every[1]), blocks, int(every[1])))
    elif spread := _SPREAD.fullmatch(given):
        count = int(spread[1])
        sites = sorted({round(_DEPTH * blocks * place / count) for place in range(1, count + 1)} & set(range(blocks)))
    else:
        raise ValueError(f"{key}='{given}': expected a list of blocks, 'every 4' or '6 spread' (any numbers from 1)")
    if not sites:
        raise ValueError(f"{key}='{given}': gives no site in {blocks} blocks")
    return sites
