"""Reads run records and the files of experiments for a report."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from configs.errors import InputError
from configs.schema import RunConfig
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord
from fl_server.record.tables import TABLES
from simulations.experiments.audit.schema import SCHEMA as AUDIT_SCHEMA
from simulations.experiments.audit.schema import Audit
from simulations.experiments.cold_start.findings import main_rows
from simulations.experiments.cold_start.rows import COLUMNS
from simulations.experiments.cold_start.schema import SCHEMA as COLD_START_SCHEMA
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.comparison.schema import SCHEMA as COMPARISON_SCHEMA
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.result_file import read_report
from simulations.experiments.sweep.schema import SCHEMA as SWEEP_SCHEMA
from simulations.experiments.sweep.schema import Sweep

_NEEDED = {
    "rounds": ("round", "metrics"),
    "clients": ("round", "phase", "user", "metrics"),
    "ledger": ("round", "phase", "direction", "user", "group", "payload_bytes", "message_bytes"),
    "users": ("partition", "user_id"),
}
"""Columns that a record's tables must have to be shown."""
PREDICTIONS = 5000
"""Maximum number of predictions in a report, which keeps it small."""


@dataclass(frozen=True)
class ReportRun:
    """One run in a report."""

    label: str
    """The shortest name that distinguishes it from the others."""
    folder: Path
    record: RunRecord
    config: RunConfig
    rounds: pd.DataFrame
    clients: pd.DataFrame
    """One row per client task, metrics as columns."""
    ledger: pd.DataFrame
    users: pd.DataFrame
    errors: list[dict[str, Any]]
    alone: bool
    """It was named itself, not as a part of an experiment."""
    status: str
    """The record's status, or `interrupted` if the record says `running` but no process is running it."""

    @property
    def completed(self) -> bool:
        """Whether it has results."""
        return self.record.status == "completed" and bool(self.record.metrics)

    @property
    def metric(self) -> str:
        """The main metric of the task."""
        return next(iter(self.record.metrics), "")


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    title: str
    runs: list[ReportRun]
    comparisons: list[Comparison] = field(default_factory=list)
    """Contents of `compare.json`."""
    cold_starts: list[tuple[pd.DataFrame, ColdStart]] = field(default_factory=list)
    """Contents of `cold_start.csv` and `cold_start.json`."""
    sweeps: list[Sweep] = field(default_factory=list)
    """Contents of `sweep.json`."""
    audits: list[Audit] = field(default_factory=list)
    """Contents of `audit.json`."""
    predictions: list[dict[str, Any]] = field(default_factory=list)
    predictions_cut: int = 0


def gather_report(paths: Sequence[Path]) -> ReportData:
    """Read folders of run records, comparisons, cold-start experiments, sweeps and audits.

    Raises:
        InputError: A folder is none of these, or one of its runs is missing.
    """
    folders: dict[Path, None] = {}
    named = {path.resolve() for path in paths}
    comparisons, cold_starts, sweeps, audits = [], [], [], []
    for path in paths:
        if RunFolder(path).is_record:
            folders[path.resolve()] = None
        elif (path / "compare.json").is_file():
            comparisons.append(read_report(path / "compare.json", Comparison, COMPARISON_SCHEMA, "compare"))
            folders |= dict.fromkeys((path / run.folder).resolve() for run in comparisons[-1].runs)
        elif (path / "cold_start.csv").is_file():
            report = read_report(path / "cold_start.json", ColdStart, COLD_START_SCHEMA, "cold-start")
            frame = _read_rows(path / "cold_start.csv")
            cold_starts.append((frame, report))
            folders |= dict.fromkeys((path / name).resolve() for name in main_rows(frame).folder)
        elif (path / "sweep.json").is_file():
            sweeps.append(read_report(path / "sweep.json", Sweep, SWEEP_SCHEMA, "sweep"))
            folders |= dict.fromkeys((path / name).resolve() for cell in sweeps[-1].cells for name in cell.folders)
        elif (path / "audit.json").is_file():
            audits.append(read_report(path / "audit.json", Audit, AUDIT_SCHEMA, "audit"))
            folders[(path / audits[-1].run).resolve()] = None
        else:
            raise InputError(f"{path}: no run record, comparison, cold-start experiment, sweep or audit")
    labels = _labels(list(folders))
    runs = [_read(folder, label, folder in named) for folder, label in zip(folders, labels, strict=True)]
    # Each run gets an equal share, otherwise a comparison's first run could take all.
    share = PREDICTIONS // max(1, len(runs))
    rows = [list(_predictions(run)) for run in runs if run.completed]
    return ReportData(
        title=", ".join(path.resolve().name for path in paths),
        runs=runs,
        comparisons=comparisons,
        cold_starts=cold_starts,
        sweeps=sweeps,
        audits=audits,
        predictions=[row for lines in rows for row in lines[:share]],
        predictions_cut=sum(len(lines[share:]) for lines in rows),
    )


def _labels(folders: list[Path]) -> list[str]:
    """The shortest end of each path that no other path has."""

    def shortest(folder: Path) -> str:
        others = [other for other in folders if other != folder]
        depth = next(n for n in count(1) if all(other.parts[-n:] != folder.parts[-n:] for other in others))
        return "/".join(folder.parts[-depth:])

    return [shortest(folder) for folder in folders]


def _read(folder: Path, label: str, alone: bool) -> ReportRun:
    files = RunFolder(folder)
    record = files.record
    figures = (record.metrics, record.metrics_collective, record.metrics_base, record.per_user)
    if any(record.metrics.keys() - item.keys() for item in figures):
        raise InputError(f"{folder / 'run.json'}: expected the same metrics at every evaluation point and per user")
    tables = {
        "rounds": files.rounds().to_pandas(),
        "clients": files.clients().to_pandas(),
        "ledger": files.ledger().to_pandas(),
        "users": files.users().to_pandas(),
    }
    for name, needed in _NEEDED.items():
        if missing := [column for column in needed if column not in tables[name]]:
            raise InputError(f"{folder / name}.parquet: column {missing[0]!r} is missing")
    for name in ("rounds", "clients"):
        # Records of earlier versions lack later columns.
        tables[name] = tables[name].reindex(columns=TABLES[name].names)
        metrics = pd.DataFrame([dict(row) for row in tables[name].pop("metrics")], index=tables[name].index)
        tables[name] = tables[name].join(metrics)
    return ReportRun(
        label,
        folder,
        record,
        files.config,
        errors=_read_lines(folder / "errors.jsonl", ("round", "phase", "user", "traceback")),
        alone=alone,
        status=files.status,
        **tables,
    )


def _predictions(run: ReportRun) -> Iterator[dict[str, Any]]:
    names = dict(zip(run.users.partition, run.users.user_id, strict=True))
    for row in _read_lines(run.folder / "predictions.jsonl", ("user", "query", "stage", "gold", "prediction")):
        yield {**row, "user": str(names.get(row["user"], row["user"])), "run": run.label}


def _read_rows(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable: {error}") from None
    if missing := [name for name in COLUMNS if name not in rows]:
        raise InputError(f"{path}: column {missing[0]!r} is missing")
    return rows


def _read_lines(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the complete lines that have these keys."""
    rows = []
    # Not splitlines, since text may contain other line separators.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []:
        try:
            # JSON in a browser has no NaN.
            row = json.loads(line, parse_constant=str)
        except ValueError:
            continue  # half-written by a killed process
        if isinstance(row, dict) and row.keys() >= set(keys):
            rows.append(row)
    return rows
