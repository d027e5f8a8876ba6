"""What is drawn as one line, and in which colour: the same method looks the same in every figure and report."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from simulations.report.gather import Shown

# Okabe and Ito's, which colour-blind readers tell apart; black and yellow each vanish on one of the two backgrounds.
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
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_DASHES = ("solid", "dash", "dashdot", "longdash")


def colour(method: str) -> str:
    """Return the colour a method has in every report."""
    place = _KNOWN.index(method) if method in _KNOWN else blake2b(method.encode(), digest_size=2).digest()[0]
    return PALETTE[place % len(PALETTE)]


def symbol(method: str) -> str:
    """Return the marker a method has in every report: methods of one colour differ in it."""
    place = _KNOWN.index(method) if method in _KNOWN else blake2b(method.encode(), digest_size=2).digest()[1]
    return _SYMBOLS[place // len(PALETTE) % len(_SYMBOLS)]


@dataclass(frozen=True)
class Series:
    """Runs drawn as one: a method with several seeds, or a run by itself."""

    label: str
    method: str
    runs: list[Shown]
    dash: str
    """Tells series of one method, and so of one colour, apart."""

    @property
    def style(self) -> dict[str, Any]:
        """How its lines and markers look."""
        line = {"color": colour(self.method), "dash": self.dash}
        return {"line": line, "marker": {"symbol": symbol(self.method), "size": 8, "color": colour(self.method)}}


def series(runs: Sequence[Shown]) -> list[Series]:
    """Return what is drawn: runs of one method are one series if they differ in their seeds."""
    found: list[Series] = []
    for method in dict.fromkeys(run.record.method for run in runs):
        own = [run for run in runs if run.record.method == method]
        settings = {run.config.model_copy(update={"seed": 0}).model_dump_json() for run in own}
        if len(settings) == 1 and len({run.record.seed for run in own}) == len(own) > 1:
            found.append(Series(method, method, own, "solid"))
        else:
            found += [Series(run.label, method, [run], _DASHES[n % len(_DASHES)]) for n, run in enumerate(own)]
    return found
