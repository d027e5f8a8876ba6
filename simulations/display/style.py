"""The colour and the marker of each method, the same in every figure and report."""

from collections.abc import Iterable
from hashlib import blake2b
from itertools import product
from typing import NamedTuple

# Okabe and Ito's palette for colour-blind readers, without black and yellow, which fade on a dark or light background.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FDF", "#999999")
_KNOWN = (
    "perfit",
    "oppu",
    "fdlora",
    "lora-c",
    "lora-p",
    "fedreft",
    "reft-c",
    "fedsa-lora",
    "ffa-lora",
    "flora",
    "fedex-lora",
    "flasc",
    "fed-sb",
    "fedsrd",
    "rag",
    "pag",
    "llm-rec",
    "stylevector",
    "lofit",
    "chameleon",
    "dpo",
    "sft",
    "p2p",
    "reft-p",
    "lora-reft",
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "star": "*"}


def colour(method: str) -> str:
    """Return the colour of a method in every figure."""
    place = _KNOWN.index(method) if method in _KNOWN else blake2b(method.encode(), digest_size=2).digest()[0]
    return PALETTE[place % len(PALETTE)]


def symbol(method: str) -> str:
    """Return the Plotly marker of a method in every figure; known methods of one colour have different markers."""
    if method in _KNOWN:
        return _SYMBOLS[_KNOWN.index(method) // len(PALETTE)]
    # Not a marker of a known method, whose colour it may share.
    others = _SYMBOLS[len(_KNOWN) // len(PALETTE) + 1 :]
    return others[blake2b(method.encode(), digest_size=2).digest()[1] % len(others)]


class Style(NamedTuple):
    """How a method looks in one figure."""

    colour: str
    symbol: str
    """The marker, as Plotly calls it."""

    @property
    def marker(self) -> str:
        """The marker, as Matplotlib calls it."""
        return _MARKERS[self.symbol]


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """Return how the methods of one figure look, all of them differently as long as there are enough styles.

    A method of this package looks the same in every figure; variants, whose names are anybody's, take what is free.
    """
    names = list(dict.fromkeys(methods))
    chosen = {name: Style(colour(name), symbol(name)) for name in names if name in _KNOWN}
    for name in names:
        if name in chosen:
            continue
        usual = Style(colour(name), symbol(name))
        free = [Style(*pair) for pair in product(PALETTE, _SYMBOLS) if Style(*pair) not in chosen.values()]
        # With the colours that no other method has first.
        free.sort(key=lambda style: [other.colour for other in chosen.values()].count(style.colour))
        chosen[name] = usual if usual.colour not in [other.colour for other in chosen.values()] or not free else free[0]
    return {name: chosen[name] for name in names}
