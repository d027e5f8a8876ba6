"""Which run records there are in a folder of results."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError, nearest
from fl_server.records import RunRecord, read_run
from simulations.folders import is_held


@dataclass(frozen=True)
class Found:
    """A run record in a folder of results."""

    name: str
    """As `--resume` and the other commands take it: the path below the results."""
    folder: Path
    record: RunRecord
    age_s: float
    """Since anything was written to it."""

    @property
    def status(self) -> str:
        """As `status_of` says."""
        return status_of(self.folder, self.record)

    def summary(self) -> dict[str, Any]:
        """Return what the list shows."""
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
        }


def status_of(folder: Path, record: RunRecord) -> str:
    """Return a record's status; `interrupted` where it says running and nobody works in it."""
    return "interrupted" if record.status == "running" and not is_held(folder) else record.status


def find_runs(results: Path) -> list[Found]:
    """Return the run records in a folder, those in folders of comparisons too; what is none is passed over."""
    found = []
    for path in sorted([*results.glob("*/run.json"), *results.glob("*/*/run.json")]):
        try:
            found.append(_read(path.parent, path.parent.relative_to(results).as_posix()))
        except InputError:
            continue
    return found


def find_run(results: Path, name: str) -> Found:
    """Return one run record, by its name in a folder of results, else by the path of its own.

    Raises:
        InputError: There is none; the nearest is named.
    """
    runs = find_runs(results)
    for run in runs:
        if run.name == name:
            return run
    if (Path(name) / "run.json").is_file():
        return _read(Path(name), name)
    raise InputError(f"{name}: no run record of that name in {results}{nearest(name, [run.name for run in runs])}")


def _read(folder: Path, name: str) -> Found:
    record = read_run(folder)
    written = [folder / "run.json", folder / "events.jsonl"]
    newest = max(path.stat().st_mtime for path in written if path.is_file())
    return Found(name, folder, record, max(0.0, time.time() - newest))
