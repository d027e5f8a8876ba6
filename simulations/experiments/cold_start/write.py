"""Output of a cold-start experiment: `cold_start.csv`, `quality_by_number.csv`, `cold_start.json` and figures."""

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from configs.files import write_atomic
from simulations.display.plots import FORMATS
from simulations.experiments.cold_start.controls import controls_by_number
from simulations.experiments.cold_start.findings import (
    compositions,
    differences,
    newcomers,
    numbers,
    quality_by_number,
    settings,
    transfer,
)
from simulations.experiments.cold_start.plots import draw
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.comparable import Run


def write_cold_start(rows: pd.DataFrame, runs: Sequence[Run], folder: Path) -> ColdStart:
    """Write all files into `folder` and return the content of `cold_start.json`.

    Args:
        rows: From `run_all`.
        runs: The main runs, also from `run_all`.
        folder: The experiment's folder.
    """
    rows.astype({"bytes_total": "Int64"}).to_csv(folder / "cold_start.csv", index=False)
    report = findings(rows, runs, folder.name)
    quality_by_number(report.numbers).to_csv(folder / "quality_by_number.csv", index=False)
    write_atomic(folder / "cold_start.json", report.to_json())
    for stem, kind in product(("cold_start-*", "transfer"), FORMATS):
        for old in folder.glob(f"{stem}.{kind}"):
            old.unlink()
    draw(rows, folder)
    return report


def left_out(rows: pd.DataFrame, folder: Path) -> int:
    """Return how many runs of another specification are in the tables in `folder` but not in these rows."""
    table = folder / "cold_start.csv"
    if not table.is_file():
        return 0
    with table.open(encoding="utf-8", errors="replace", newline="") as lines:
        # Pandas would refuse a damaged table, although it is about to be rewritten.
        return len({row.get("folder") for row in csv.DictReader(lines)} - {None, *rows.folder})


def findings(rows: pd.DataFrame, runs: Sequence[Run], name: str) -> ColdStart:
    """Return the content of `cold_start.json` of an experiment called `name`."""
    return ColdStart(
        name=name,
        settings=settings(runs),
        uncommitted=rows.folder[rows.dirty.eq(True)].tolist(),
        numbers=numbers(rows),
        differences=differences(runs, rows),
        newcomers=newcomers(rows),
        controls=controls_by_number(runs),
        compositions=compositions(rows),
        transfer=transfer(rows),
    )
