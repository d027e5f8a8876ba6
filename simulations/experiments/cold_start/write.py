"""Output of a cold-start experiment: `cold_start.csv`, `quality_by_number.csv`, `cold_start.json`, figures, tables."""

import csv
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from simulations.display.plots import FORMATS
from simulations.experiments.cold_start.findings import (
    SCHEMA,
    compositions,
    differences,
    newcomers,
    numbers,
    quality_by_number,
    settings,
    transfer_matrix,
    transfers,
)
from simulations.experiments.cold_start.plots import draw
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.comparable import Run


def write_report(rows: pd.DataFrame, runs: Sequence[Run], folder: Path | str) -> list[Table]:
    """Write all files into `folder` and return the tables for the terminal.

    Args:
        rows: From `cold_start`.
        runs: The main runs, also from `cold_start`.
        folder: The experiment's folder.
    """
    folder = Path(folder)
    rows.astype({"bytes_total": "Int64"}).to_csv(folder / "cold_start.csv", index=False)
    report = {"name": folder.name, **findings(rows, runs)}
    quality_by_number(report["numbers"]).to_csv(folder / "quality_by_number.csv", index=False)
    text = json.dumps(report, indent=1, ensure_ascii=False, default=float, allow_nan=False)
    (folder / "cold_start.json").write_text(text + "\n", encoding="utf-8")
    for stem, kind in product(("cold_start-*", "transfer"), FORMATS):
        for old in folder.glob(f"{stem}.{kind}"):
            old.unlink()
    draw(rows, folder)
    return cold_start_tables(report)


def left_out(rows: pd.DataFrame, folder: Path) -> int:
    """Return how many runs of another specification are in the tables in `folder` but not in these rows."""
    table = folder / "cold_start.csv"
    if not table.is_file():
        return 0
    with table.open(encoding="utf-8", errors="replace", newline="") as lines:
        # Pandas would refuse a damaged table, although it is about to be rewritten.
        return len({row.get("folder") for row in csv.DictReader(lines)} - {None, *rows.folder})


def findings(rows: pd.DataFrame, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the contents of `cold_start.json`, without the experiment's name."""
    moved = transfers(rows)
    return {
        "schema": SCHEMA,
        "settings": settings(runs),
        "uncommitted": rows.folder[rows.dirty.eq(True)].tolist(),
        "numbers": numbers(rows),
        "differences": differences(runs, rows),
        "newcomers": newcomers(rows),
        "compositions": compositions(rows),
        "transfer": {
            "collective": int(moved.collective.max()),
            "metrics": dict(zip(rows.task, rows.metric, strict=True)),
            "methods": {
                method: {
                    name: json.loads(transfer_matrix(rows, method, column, over_seeds).to_json(orient="index"))
                    for name, column, over_seeds in (
                        ("value", "value", "mean"),
                        ("deviation", "value", "std"),
                        ("second_value", "second_value", "mean"),
                        ("worst_decile", "worst_decile", "mean"),
                    )
                }
                for method in dict.fromkeys(moved.method)
            },
        }
        if len(moved)
        else None,
    }
