"""What newcomers gain by their own adapter, for each number of collective users."""

from collections.abc import Sequence

from simulations.experiments.cold_start.schema import ControlsRow
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.controls import controls, correct


def controls_by_number(runs: Sequence[Run]) -> list[ControlsRow]:
    """Return a row per task, method and number of collective users, for methods with controls.

    Args:
        runs: The experiment's main runs.
    """
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.config.task, run.method, run.config.users.collective), []).append(run)
    rows = [
        ControlsRow(task=task, metric=group[0].record.main_metric, method=method, collective=count, controls=served)
        for (task, method, count), group in groups.items()
        if (served := controls(group))
    ]
    correct([control for row in rows for control in row.controls.values()])
    return rows
