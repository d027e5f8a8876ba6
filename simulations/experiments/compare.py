"""`fedperfit compare`: several methods on the same users, seeds and evaluation; runs what is missing."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.errors import InputError, RunFailed
from simulations.experiments.comparable import Run, check_comparable
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.plots import draw_curves
from simulations.experiments.plan import Planned, plan
from simulations.experiments.reuse import find, interrupted
from simulations.run.folders import claim_folder
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
) -> dict[str, Any]:
    """Compare methods on the same users, seeds and evaluation: run what is missing, test all against the first.

    Args:
        methods: Names of files in `configs/methods/`, TOML files, or `module:Class`.
        toml: An experiment for all of them.
        overrides: `key=value` for all of them.
        seeds: Each method runs with each.
        name: The comparison's folder under `results`.
        results: Where it goes, and where run records are reused.
        overwrite: Reuse nothing, run everything anew.
        say: Told what is done.
        watch: As in `simulate`.

    Returns:
        What `compare.json` holds.

    Raises:
        InputError: Something asked for is wrong; nothing was run.
        RunFailed: A run failed; those completed before are kept and used the next time.
    """
    folder = claim_folder(results, name)
    if (folder / "cold_start.json").is_file():
        raise InputError(f"{folder} is a cold-start experiment; choose another --name")
    planned = plan(methods, toml, overrides, seeds)
    runs = complete(planned, folder, overwrite, log, on_progress)
    return write_comparison(runs, planned[0].method, folder)


def complete(
    planned: Sequence[Planned],
    folder: Path,
    overwrite: bool,
    log: Callable[[str], None],
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> list[Run]:
    """Run what is missing.

    Args:
        planned: What shall be there.
        folder: Where new run records go. Completed ones of the same config and users in it or beside it are used.
        overwrite: Use none, run everything anew.
        say: Told what is done.
        watch: As in `simulate`.

    Raises:
        InputError: `folder` is a run record, holds runs of another config, or is being worked in.
        RunFailed: A run failed; those completed before are kept and used the next time.
    """
    if (folder / "run.json").is_file():
        raise InputError(f"{folder} is a run record; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            found = {} if overwrite else {each.name: find(each, folder) for each in planned}
            begun = {
                each.name
                for each in planned
                if not overwrite and not found[each.name] and interrupted(each, folder / each.name, log)
            }
            runs = []
            for number, each in enumerate(planned, 1):
                there = found.get(each.name)
                log(f"{number} of {len(planned)}: {each.name}" + (f", reused from {there}" if there else ""))
                runs.append(Run.read(there or _run(each, folder, each.name in begun, log, on_progress), each.method))
            return runs
    except Timeout:
        raise InputError(f"{folder}: another command works in it; wait, or choose another --name") from None


def _run(
    planned: Planned, folder: Path, begun: bool, log: Callable[[str], None], on_progress: Callable[[Path], None]
) -> Path:
    place = folder / planned.name
    try:
        if begun:
            log(f"going on where {place} was interrupted")
            resume(planned.name, folder, on_progress)
        else:
            simulate(planned.config, planned.name, folder, True, planned.import_path, on_progress)
    except RunFailed as error:
        raise RunFailed(f"{planned.name}: {error}") from None
    except KeyboardInterrupt:
        log("interrupted; the same command goes on from here (`compare`'s without --overwrite)")
        raise
    return place


def write_comparison(runs: Sequence[Run], reference: str, folder: Path) -> dict[str, Any]:
    """Work a comparison of completed runs out and write `compare.json`, `curves.parquet` and the plots.

    Raises:
        InputError: The runs cannot be compared.
    """
    check_comparable(runs)
    report, curves = compare_runs(runs, reference)
    report = {"name": folder.name, **report}
    for entry in report["runs"]:
        entry["folder"] = os.path.relpath(entry["folder"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    curves.to_parquet(folder / "curves.parquet", index=False)
    draw_curves(report, curves, folder)
    return report
