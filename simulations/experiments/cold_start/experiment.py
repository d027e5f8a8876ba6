"""`fedperfit cold-start`: the missing runs, and what they say."""

from collections.abc import Callable, Sequence
from pathlib import Path

from simulations.experiments.cold_start.run import run_all
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.cold_start.write import left_out, write_cold_start
from simulations.run.folders import claim_folder


def cold_start(
    spec: ColdStartSpec,
    toml: Path | str | None = None,
    overrides: Sequence[str] = (),
    name: str = "cold-start",
    results: Path | str = "results",
    log: Callable[[str], None] = print,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> ColdStart:
    """Measure how many users must take part before a newcomer is served well, and at what cost in bytes.

    Args:
        spec: The experiment.
        toml: An experiment file for all runs.
        overrides: `key=value` for all runs.
        name: The experiment's folder under `results`.
        results: The folder of results; run records in it are reused.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Returns:
        The contents of `cold_start.json`.

    Raises:
        InputError: A setting is invalid, or there are too few users; nothing was run.
        RunFailed: A run failed; completed runs are kept and reused next time.
    """
    folder = claim_folder(results, name)
    rows, runs = run_all(spec, toml, overrides, folder, log, on_progress)
    if count := left_out(rows, folder):
        log(
            f"{folder}: replacing the tables and plots of a different experiment; {count} of its runs are not in the "
            "new ones. Their records are kept: repeating that experiment with another --name needs no training"
        )
    return write_cold_start(rows, runs, folder)
