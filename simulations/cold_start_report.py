"""What a cold-start experiment found: `cold_start.csv`, `cold_start.json` and tables."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from simulations.cold_start_findings import (
    NEAR,
    compositions,
    fewest_against_most,
    main_rows,
    newcomers,
    numbers,
    transfer_matrix,
    transfers,
)
from simulations.cold_start_plots import draw
from simulations.comparable import Run
from simulations.comparison import spread
from simulations.tables import human_bytes, interval, with_arrow


def write_report(rows: pd.DataFrame, runs: Sequence[Run], folder: Path) -> list[Table]:
    """Write everything into `folder` and return the tables for the terminal.

    Args:
        rows: From `cold_start`.
        runs: The runs of its first part.
        folder: Where to.
    """
    rows.to_csv(folder / "cold_start.csv", index=False, float_format="%.6g")
    report: dict[str, Any] = {
        "schema": 1,
        "name": folder.name,
        "numbers": numbers(rows),
        "fewest_against_most": fewest_against_most(runs, rows),
        "newcomers": newcomers(rows),
    }
    report["compositions"] = compositions(rows)
    report["transfer"] = {
        method: {
            column: json.loads(transfer_matrix(rows, method, column).to_json(orient="index"))
            for column in ("value", "worst_decile")
        }
        for method in (dict.fromkeys(rows.method) if len(transfers(rows)) else ())
    }
    text = json.dumps(report, indent=1, ensure_ascii=False, default=float)
    (folder / "cold_start.json").write_text(text + "\n", encoding="utf-8")
    draw(rows, folder)
    return cold_start_tables(rows, report)


def cold_start_tables(rows: pd.DataFrame, report: dict[str, Any]) -> list[Table]:
    """Return what `cold_start.csv` and `cold_start.json` hold as tables."""
    tables = [_numbers_table(rows), _newcomers_table(report["newcomers"])]
    if report["fewest_against_most"]:
        tables.insert(1, _moonshot_table(report["fewest_against_most"]))
    if report["compositions"]:
        tables.append(_compositions_table(report["compositions"]))
    if len(transfers(rows)):
        tables.append(_transfer_table(rows))
    return tables


def _numbers_table(rows: pd.DataFrame) -> Table:
    """The shape of the paper's Table 14, with what a mean hides: the worst decile and the shortest histories."""
    table = Table(title="quality of unseen users by the number of collective users")
    for title in (
        "task",
        "users",
        "method",
        "quality",
        "before stage 2",
        "worst decile",
        "quarters by history",
        "bytes",
    ):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    chosen = main_rows(rows)
    for (task, count), part in chosen.groupby(["task", "collective"], sort=False):
        for method, own in part.groupby("method", sort=False):
            means = [own[f"q{number}"].mean() for number in range(1, 5)]
            quarters = "/".join(f"{mean:.2f}" for mean in means if not math.isnan(mean))
            table.add_row(
                f"{task}, {with_arrow(own.metric.iloc[0])}",
                str(count),
                str(method),
                _mean(own.value),
                _mean(own.value_collective),
                f"{own.worst_decile.mean():.3f}",
                quarters or "–",
                human_bytes(own.bytes_total.mean()),
            )
        table.add_section()
    table.caption = (
        "mean ± standard deviation over seeds; quarters: the shortest histories first, – where all are equally long; "
        "bytes: all clients"
    )
    return table


def _moonshot_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="few collective users against many")
    for title in ("task", "", "against", "difference", "95 %", "p", "worst decile", "target users"):
        table.add_column(title, justify="left" if title in ("task", "", "against") else "right")
    for row in found:
        few, many = (f"{row[key]['method']} with {row[key]['collective']}" for key in ("fewest", "most"))
        noise = " ≈" if row["within_noise"] else ""
        table.add_row(
            f"{row['task']}, {with_arrow(row['metric'])}",
            few,
            many,
            f"{row['difference']:+.3f}{noise}",
            interval(row),
            f"{row['p_value']:.4f}",
            f"{row['fewest']['worst_decile']:.3f} / {row['most']['worst_decile']:.3f}",
            str(row["users"]),
        )
    table.caption = "≈: within noise (paired test over users, p ≥ 0.05, not corrected for several tests)"
    return table


def _newcomers_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="what a newcomer pays, and brings")
    near = f"epochs to {NEAR:.0%}"
    for title in ("task", "method", "users", "download", near, "steps", "quality by items of history"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for row in found:
        reached = row["near_final"]
        history = ", ".join(
            f"{items}: {level['mean']:.3f}" + (f" ({level['worst_decile']:.3f})" if "worst_decile" in level else "")
            for items, level in row["by_history"].items()
        )
        tried = ", ".join(map(str, row["epochs_tried"]))
        table.add_row(
            row["task"],
            row["method"],
            str(row["collective"]),
            human_bytes(row["download_bytes"]),
            f"{reached['epochs']} of {tried}" if reached else f"– of {tried}",
            f"{reached['steps']:.0f}" if reached else "–",
            history,
        )
    table.caption = (
        f"{near}: the fewest of those tried that reach {NEAR:.0%} of the final quality; 0: the collective shift alone; "
        "in brackets: the worst decile"
    )
    return table


def _compositions_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="who the collective users are: groups of one size, the same target users")
    for title in ("task", "method", "users", "groups", "mean", "worst decile", "variance", "range"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for row in found:
        table.add_row(
            row["task"],
            row["method"],
            str(row["collective"]),
            str(row["groups"]),
            f"{row['mean']:.3f}",
            f"{row['worst_decile']:.3f}",
            f"{row['variance']:.2e}",
            f"{row['range']:.3f}",
        )
    table.caption = "variance and range: over the groups of a seed, mean over seeds"
    return table


def _transfer_table(rows: pd.DataFrame) -> Table:
    tasks = list(dict.fromkeys(rows.task))
    most = rows.collective.max()
    table = Table(title=f"where the collective shift of {most} users comes from: trained on (row), used on (column)")
    metrics = dict(zip(rows.task, rows.metric, strict=True))
    for title in ("method", "trained on", *(f"{task}, {with_arrow(metrics[task])}" for task in tasks)):
        table.add_column(title, justify="left" if title in ("method", "trained on") else "right")
    for method in dict.fromkeys(rows.method):
        matrix, worst = (transfer_matrix(rows, method, column) for column in ("value", "worst_decile"))
        for source in matrix.index:
            cells = [f"{matrix.loc[source, task]:.3f} ({worst.loc[source, task]:.3f})" for task in tasks]
            table.add_row(method, str(source), *cells)
        table.add_section()
    table.caption = "in brackets: the worst decile"
    return table


def _mean(values: "pd.Series[float]") -> str:
    found = spread(values.tolist())
    return f"{found['mean']:.3f}" + (f" ± {found['std']:.3f}" if found["std"] is not None else "")
