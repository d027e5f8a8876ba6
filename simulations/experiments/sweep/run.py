"""`fedperfit sweep`: run what is missing of a grid, and write what it found."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.errors import InputError
from configs.files import write_atomic
from fl_clients.lamp.tasks import find_task
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete
from simulations.experiments.comparison.curves import curve
from simulations.experiments.comparison.schema import Spread
from simulations.experiments.plan import Planned, plan, users_digests
from simulations.experiments.sweep.against_best import with_tests
from simulations.experiments.sweep.plots import draw
from simulations.experiments.sweep.schema import Sweep, SweepCell
from simulations.experiments.sweep.spec import SweepSpec, slugs
from simulations.run.folders import check_experiment, claim_folder
from strategies.metrics.statistics import LOWER_IS_BETTER


def sweep(
    spec: SweepSpec,
    toml: Path | str | None = None,
    overrides: list[str] | None = None,
    name: str = "sweep",
    results: Path | str = "results",
    log: Callable[[str], None] = print,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> Sweep:
    """Run every method with every combination of values and every seed; runs are ordinary records, reused and resumed.

    Args:
        spec: The grid.
        toml: An experiment file for all runs.
        overrides: `key=value` for all runs.
        name: The sweep's folder under `results`.
        results: The folder of results; run records in it are reused.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Returns:
        The contents of `sweep.json`.

    Raises:
        InputError: An argument is invalid; nothing was run.
        RunFailed: A run failed; completed runs are kept and reused next time.
    """
    folder = claim_folder(results, name)
    check_experiment(folder, "sweep.json")
    grid = _plan(spec, toml, overrides or [])
    planned = [one for _, runs in grid for one in runs]
    log(f"{len(planned)} runs")
    runs = complete(planned, folder, False, log, on_progress)
    by_name = {one.name: run for one, run in zip(planned, runs, strict=True)}
    cells, runs_of = [], []
    for point, at_point in grid:
        for method in dict.fromkeys(one.method for one in at_point):
            runs_of.append([by_name[one.name] for one in at_point if one.method == method])
            cells.append(cell_of(method, list(point.values()), runs_of[-1], folder))
    lower_is_better = runs[0].record.main_metric in LOWER_IS_BETTER
    report = _found(spec, runs, with_tests(cells, runs_of, lower_is_better), folder.name)
    write_atomic(folder / "sweep.json", report.to_json())
    draw(report, folder)
    return report


def _plan(spec: SweepSpec, toml: Path | str | None, overrides: list[str]) -> list[tuple[dict[str, str], list[Planned]]]:
    """Plan every run before any work."""
    digest, kinds, grid = users_digests(), set[str](), []
    points = spec.points()
    for point, name in zip(points, slugs(points), strict=True):
        words = [*overrides, *(f"{key}={value}" for key, value in point.items())]
        try:
            planned = plan(spec.methods, toml, words, spec.seeds, digest)
        except InputError as error:
            raise InputError(f"{', '.join(words[len(overrides) :])}: {error}") from None
        kinds |= {find_task(one.config.task).kind for one in planned}
        grid.append((point, [_at_the_end(one, name) for one in planned]))
    if len(kinds) > 1:
        raise InputError(f"task: answers of different kinds ({', '.join(sorted(kinds))}) have no common metric")
    return grid


def _at_the_end(planned: Planned, point: str) -> Planned:
    """Name a run after its point, and evaluate it after the last round only."""
    evaluate = planned.config.evaluate.model_copy(update={"every": planned.config.rounds})
    config = planned.config.model_copy(update={"evaluate": evaluate})
    name = f"{planned.method}-{point}-seed{config.seed}"
    return replace(planned, name=name, config=config, needs_midway=False)


def cell_of(method: str, values: list[str], runs: list[Run], folder: Path) -> SweepCell:
    """Return one cell of a sweep.

    Args:
        method: The name of the method.
        values: Of the sweep's keys.
        runs: One per seed.
        folder: The sweep's.
    """
    metric = runs[0].record.main_metric
    records = [run.record for run in runs]
    return SweepCell(
        method=method,
        values=values,
        quality=Spread.of([record.metrics[metric] for record in records]),
        quality_collective=Spread.of([record.metrics_collective[metric] for record in records]),
        base=Spread.of([record.metrics_base[metric] for record in records]),
        epsilon=max((spent.epsilon for one in records if (spent := one.privacy) and spent.epsilon), default=None),
        bytes=float(np.mean([curve(run).bytes_total.iloc[-1] for run in runs])),
        seconds=float(np.mean([record.wall_s for record in records])),
        shared=records[0].params.shared,
        private=records[0].params.private,
        folders=[os.path.relpath(run.folder, folder) for run in runs],
    )


def _found(spec: SweepSpec, runs: list[Run], cells: list[SweepCell], name: str) -> Sweep:
    tasks, backbones = ({getattr(run.config, key) for run in runs} for key in ("task", "backbone"))
    metric = runs[0].record.main_metric
    return Sweep(
        name=name,
        keys=list(spec.axes),
        seeds=spec.seeds,
        task=tasks.pop() if len(tasks) == 1 else "",
        backbone=backbones.pop() if len(backbones) == 1 else "",
        metric=metric,
        lower_is_better=metric in LOWER_IS_BETTER,
        cells=cells,
    )
