"""Groups runs into lines of a figure."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulations.display.style import colour, symbol
from simulations.experiments.comparable import numbers
from simulations.report.gather import ReportRun

_VARIANTS = ("", "-open", "-dot", "-open-dot")
_DASHES = ("solid", "dash", "dashdot", "longdash")


@dataclass(frozen=True)
class Series:
    """Runs drawn as one line: a method with several seeds, or a single run."""

    label: str
    method: str
    runs: list[ReportRun]
    dash: str
    """Distinguishes series of one method, which share its colour."""

    @property
    def style(self) -> dict[str, Any]:
        """The style of its lines and markers."""
        line = {"color": colour(self.method), "dash": self.dash}
        # A series with one point shows no dash, so its marker differs too.
        shape = symbol(self.method) + _VARIANTS[_DASHES.index(self.dash)]
        return {"line": line, "marker": {"symbol": shape, "size": 8, "color": colour(self.method)}}


def series(runs: Sequence[ReportRun]) -> list[Series]:
    """Return the series to draw: runs of one method are one series if they differ only in their seeds."""
    drawn: list[Series] = []
    for method in dict.fromkeys(run.record.method for run in runs):
        alike: dict[str, list[ReportRun]] = {}
        for run in (run for run in runs if run.record.method == method):
            settings = {key: value for key, value in numbers(run.config).items() if key != "seed"}
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
        groups: list[list[ReportRun]] = []
        for members in alike.values():
            seeds = {run.record.seed for run in members}
            groups += [members] if len(seeds) == len(members) else [[run] for run in members]
        for number, group in enumerate(groups):
            label = group[0].label if len(group) == 1 else re.sub(r"-seed\d+$", "", group[0].label)
            name = method if len(groups) == 1 and len(group) > 1 else label
            drawn.append(Series(name, method, group, _DASHES[number % len(_DASHES)]))
    return drawn
