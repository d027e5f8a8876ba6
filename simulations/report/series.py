"""What is drawn as one line, and in which colour: the same method looks the same in every figure and report."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from configs.load import flatten
from simulations.comparison_runs import NO_NUMBER
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
        alike: dict[str, list[Shown]] = {}
        for run in (run for run in runs if run.record.method == method):
            settings = {key: value for key, value in flatten(run.config).items() if key not in ("seed", *NO_NUMBER)}
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
        groups: list[list[Shown]] = []
        for own in alike.values():
            seeds = {run.record.seed for run in own}
            groups += [own] if len(seeds) == len(own) else [[run] for run in own]
        for number, group in enumerate(groups):
            label = group[0].label if len(group) == 1 else re.sub(r"-seed\d+$", "", group[0].label)
            name = method if len(groups) == 1 and len(group) > 1 else label
            found.append(Series(name, method, group, _DASHES[number % len(_DASHES)]))
    return found
