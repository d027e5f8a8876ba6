"""The colour and the marker of each method, the same in every figure and report."""

from hashlib import blake2b

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


def marker(method: str) -> str:
    """Return the Matplotlib name of the same marker."""
    return _MARKERS[symbol(method)]
