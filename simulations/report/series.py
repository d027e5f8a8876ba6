"""What is drawn as one line."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.load import flatten
from simulations.display.style import colour, symbol
from simulations.experiments.comparable import NO_NUMBER
from simulations.report.gather import ReportRun

_VARIANTS = ("", "-open", "-dot", "-open-dot")
_DASHES = ("solid", "dash", "dashdot", "longdash")


@dataclass(frozen=True)
class Series:
    """Runs drawn as one: a method with several seeds, or a run by itself."""

    label: str
    method: str
    runs: list[ReportRun]
    dash: str
    """Tells series of one method, and so of one colour, apart."""

    @property
    def style(self) -> dict[str, Any]:
        """How its lines and markers look."""
        line = {"color": colour(self.method), "dash": self.dash}
        # A series of one point has no dash to be told by.
        shape = symbol(self.method) + _VARIANTS[_DASHES.index(self.dash)]
        return {"line": line, "marker": {"symbol": shape, "size": 8, "color": colour(self.method)}}


def series(runs: Sequence[ReportRun]) -> list[Series]:
    """Return what is drawn: runs of one method are one series if they differ in their seeds."""
    found: list[Series] = []
    for method in dict.fromkeys(run.record.method for run in runs):
        alike: dict[str, list[ReportRun]] = {}
        for run in (run for run in runs if run.record.method == method):
            settings = {key: value for key, value in flatten(run.config).items() if key not in ("seed", *NO_NUMBER)}
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
        groups: list[list[ReportRun]] = []
        for own in alike.values():
            seeds = {run.record.seed for run in own}
            groups += [own] if len(seeds) == len(own) else [[run] for run in own]
        for number, group in enumerate(groups):
            label = group[0].label if len(group) == 1 else re.sub(r"-seed\d+$", "", group[0].label)
            name = method if len(groups) == 1 and len(group) > 1 else label
            found.append(Series(name, method, group, _DASHES[number % len(_DASHES)]))
    return found
