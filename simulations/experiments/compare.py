"""`fedperfit compare`: several methods on the same users, seeds and evaluation; only missing runs are run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from configs.errors import InputError, RunFailed
from configs.files import write_atomic
from fl_server.record.checkpoint import load_checkpoint
from simulations.experiments.comparable import Run, check_comparable
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.plots import draw_curves, draw_seconds
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.plan import Planned, plan, plan_exchanged
from simulations.experiments.reuse import find, interrupted, started_from
from simulations.run.folders import check_experiment, check_name, check_no_record, claim_folder
from simulations.run.simulate import resume, simulate


def compare(
    methods: Sequence[str],
    toml: Path | str | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    name: str = "comparison",
    results: Path | str = "results",
    overwrite: bool = False,
    log: Callable[[str], None] = print,
    on_progress: Callable[[Path], None] = lambda _folder: None,
    control: bool = False,
) -> Comparison:
    """Compare methods on the same users, seeds and evaluation: run missing runs, test all against the first method.

    Args:
        methods: Names of files in `configs/methods/`, TOML files, or `module:Class`.
        toml: An experiment file for all of them.
        overrides: `key=value` for all of them.
        seeds: Every method runs with each of them.
        name: The comparison's folder under `results`.
        results: The folder of results; run records in it are reused.
        overwrite: Reuse nothing and run everything again.
        log: Called with progress messages.
        on_progress: As in `simulate`.
        control: Also repeat every stage 2 with another target user's history.

    Returns:
        The contents of `compare.json`.

    Raises:
        InputError: An argument is invalid; nothing was run.
        RunFailed: A run failed; completed runs are kept and reused next time.
    """
    folder = claim_folder(results, name)
    check_experiment(folder, "compare.json")
    planned = plan(methods, toml, overrides, seeds)
    exchanged = plan_exchanged(planned) if control else []
    starts = {origin for origin, _ in exchanged}
    planned = [replace(planned_run, starts_others=planned_run.name in starts) for planned_run in planned]
    runs = complete(planned, folder, overwrite, log, on_progress)
    places = {planned_run.name: run.folder for planned_run, run in zip(planned, runs, strict=True)}
    later = [started_from(planned_run, places[origin]) for origin, planned_run in exchanged]
    controls = complete(later, folder, overwrite, log, on_progress) if later else []
    return write_comparison(runs, planned[0].method, folder, controls)


def complete(
    planned: Sequence[Planned],
    folder: Path,
    overwrite: bool,
    log: Callable[[str], None],
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> list[Run]:
    """Run the missing runs of a plan.

    Args:
        planned: The plan.
        folder: Folder for new run records. Completed runs of the same config and users in it or next to it are reused.
        overwrite: Reuse nothing and run everything again.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Raises:
        InputError: `folder` is a run record, holds runs of another config, or is in use.
        RunFailed: A run failed; completed runs are kept and reused next time.
    """
    check_no_record(folder)
    for planned_run in planned:
        check_name(planned_run.name, "name")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            completed = {} if overwrite else {planned_run.name: find(planned_run, folder) for planned_run in planned}
            resumable = {
                planned_run.name
                for planned_run in planned
                if not overwrite
                and not completed[planned_run.name]
                and interrupted(planned_run, folder / planned_run.name, log)
            }
            runs = []
            for number, planned_run in enumerate(planned, 1):
                place = completed.get(planned_run.name)
                log(f"{number} of {len(planned)}: {planned_run.name}" + (f", reused from {place}" if place else ""))
                place = place or _run(planned_run, folder, planned_run.name in resumable, log, on_progress)
                runs.append(Run.read(place, planned_run.method))
            return runs
    except Timeout:
        raise InputError(f"{folder}: another command is using it; wait, or choose another name") from None


def _run(
    planned: Planned, folder: Path, resumable: bool, log: Callable[[str], None], on_progress: Callable[[Path], None]
) -> Path:
    place = folder / planned.name
    try:
        if resumable:
            log(f"resuming {place}, which was interrupted")
            known = {str(Path(path).resolve()) for path in planned.import_path}
            trust = set(load_checkpoint(place)[0].import_path) <= known
            resume(planned.name, folder, on_progress, trust)
        else:
            simulate(planned.config, planned.name, folder, True, planned.import_path, on_progress)
    except RunFailed as error:
        raise RunFailed(f"{planned.name}: {error}") from None
    except KeyboardInterrupt:
        log("stopped; run the same command again to continue, without `overwrite`")
        raise
    return place


def write_comparison(runs: Sequence[Run], reference: str, folder: Path, controls: Sequence[Run] = ()) -> Comparison:
    """Analyse completed runs and write `compare.json`, `curves.parquet` and the plots.

    Raises:
        InputError: The runs cannot be compared, or the folder holds something else.
    """
    check_experiment(folder, "compare.json")
    check_comparable(runs)
    comparison, curves = compare_runs(runs, reference, folder, controls)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "compare.json", comparison.to_json())
    curves.to_parquet(folder / "curves.parquet", index=False)
    draw_curves(comparison, curves, folder)
    draw_seconds(comparison, folder)
    return comparison
