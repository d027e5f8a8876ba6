"""Finds run records in a folder of results."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError, nearest
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord

SHIPPED = ".shipped"
"""A file that marks the repository's own results: they are not a person's runs."""


@dataclass(frozen=True)
class RunEntry:
    """A run record in a folder of results."""

    name: str
    """The path below the results folder, as `resume` and the commands take it."""
    folder: Path
    record: RunRecord

    @property
    def status(self) -> str:
        """The record's status; `interrupted` if it says running and no command works in it."""
        return RunFolder(self.folder).status

    @property
    def age_s(self) -> float:
        """Seconds since the run last did something, by its record."""
        return max(0.0, time.time() - RunFolder(self.folder).last_active)

    @property
    def experiment(self) -> str:
        """The comparison, search or cold start that the run belongs to; empty if none."""
        return self.name.rpartition("/")[0]

    def summary(self) -> dict[str, Any]:
        """Return the fields that `fedperfit runs` lists."""
        record = self.record
        done = record.status == "completed" and bool(record.metrics)
        metric = record.main_metric if done else None
        return {
            "name": self.name,
            "status": self.status,
            "method": record.method,
            "task": record.task,
            "seed": record.seed,
            "metric": metric,
            "quality": record.metrics[metric] if metric else None,
            "bytes": record.bytes.total if done else None,
            "age_s": round(self.age_s, 1),
            "experiment": self.experiment,
        }


def find_runs(
    results: str | Path, unreadable: Callable[[str], None] = lambda _error: None, shipped: bool = True
) -> list[RunEntry]:
    """Return the run records in a folder and its subfolders, such as comparisons.

    Args:
        results: The folder.
        unreadable: Called with the error for each `run.json` that is not a run record.
        shipped: Also those below a folder that the repository ships, such as `results/reference`.

    Raises:
        InputError: The folder does not exist.
    """
    results = Path(results)
    if not results.is_dir():
        raise InputError("no such folder", field="results", value=results)
    entries = []
    for home, folders, files in os.walk(results):
        if SHIPPED in files and not shipped and Path(home) != results:
            folders.clear()
        elif "run.json" in files:
            folders.clear()
            try:
                entries.append(_read(Path(home), Path(home).relative_to(results).as_posix()))
            except InputError as error:
                unreadable(str(error))
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
    return sorted(entries, key=lambda run: run.name)


def find_run(results: Path, name: str) -> RunEntry:
    """Return one run record by its name in a folder of results, or else by its path.

    Raises:
        InputError: There is no such record (the message suggests the nearest name), or it cannot be read.
    """
    for place in (results / name, Path(name)):
        if RunFolder(place).is_record:
            return _read(place, name)
    runs = find_runs(results)
    if inside := [run.name for run in runs if run.name.startswith(f"{name}/")]:
        listed = ", ".join(inside[:3]) + (", …" if len(inside) > 3 else "")
        raise InputError(f"{name}: an experiment of {len(inside)} runs; expected one of them ({listed})")
    raise InputError(f"{name}: no run record of that name in {results}{nearest(name, [run.name for run in runs])}")


_FILES = ("run.json", "compare.json", "cold_start.csv", "sweep.json", "audit.json")
"""One of these is in every folder that a report can show."""


def find_folder(results: Path, name: str) -> Path:
    """Return the folder of a run record or of an experiment, by its path or its name.

    Raises:
        InputError: There is no such folder; the message suggests the nearest name.
    """
    for place in (results / name, Path(name)):
        if any((place / file).is_file() for file in _FILES):
            return place
    for file in ("analysis.json", "ability.json"):
        if (results / name / file).is_file():
            raise InputError(f"{name}: {file} is its result, with figures beside it; expected runs")
    known = [run.name for run in find_runs(results)] if results.is_dir() else []
    known += sorted({run.rpartition("/")[0] for run in known} - {""})
    known += [path.parent.name for path in results.glob("*/audit.json")]
    raise InputError(
        f"{name}: no run record, comparison, cold-start experiment, sweep or audit, here or in "
        f"{results}{nearest(name, known)}"
    )


def _read(folder: Path, name: str) -> RunEntry:
    return RunEntry(name, folder, RunFolder(folder).record)
