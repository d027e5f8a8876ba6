"""What a cold-start experiment found: `cold_start.csv`, `cold_start.json` and tables."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from simulations.cold_start_findings import (
    NEAR,
    SCHEMA,
    compositions,
    fewest_against_most,
    newcomers,
    numbers,
    transfer_matrix,
    transfers,
)
from simulations.cold_start_plots import draw
from simulations.comparable import Run
from simulations.tables import human_bytes, interval, with_arrow


def write_report(rows: pd.DataFrame, runs: Sequence[Run], folder: Path | str) -> list[Table]:
    """Write everything into `folder` and return the tables for the terminal.

    Args:
        rows: From `cold_start`.
        runs: The runs of its first part.
        folder: Where to.
    """
    folder = Path(folder)
    rows.astype({"bytes_total": "Int64"}).to_csv(folder / "cold_start.csv", index=False)
    report = {"name": folder.name, **findings(rows, runs)}
    text = json.dumps(report, indent=1, ensure_ascii=False, default=float)
    (folder / "cold_start.json").write_text(text + "\n", encoding="utf-8")
    for old in (path for stem in ("cold_start-*", "transfer") for path in folder.glob(f"{stem}.*")):
        old.unlink()
    draw(rows, folder)
    return cold_start_tables(report)


def findings(rows: pd.DataFrame, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what `cold_start.json` holds, but for the experiment's name."""
    moved = transfers(rows)
    return {
        "schema": SCHEMA,
        "numbers": numbers(rows),
        "fewest_against_most": fewest_against_most(runs, rows),
        "newcomers": newcomers(rows),
        "compositions": compositions(rows),
        "transfer": {
            "collective": int(moved.collective.max()),
            "metrics": dict(zip(rows.task, rows.metric, strict=True)),
            "methods": {
                method: {
                    column: json.loads(transfer_matrix(rows, method, column).to_json(orient="index"))
                    for column in ("value", "worst_decile")
                }
                for method in dict.fromkeys(rows.method)
            },
        }
        if len(moved)
        else None,
    }


def cold_start_tables(report: dict[str, Any]) -> list[Table]:
    """Return what `cold_start.json` holds as tables."""
    tables = [_numbers_table(report["numbers"]), _newcomers_table(report["newcomers"])]
    if report["fewest_against_most"]:
        tables.insert(1, _moonshot_table(report["fewest_against_most"]))
    if report["compositions"]:
        tables.append(_compositions_table(report["compositions"]))
    if report["transfer"]:
        tables.append(_transfer_table(**report["transfer"]))
    return tables


def _numbers_table(found: list[dict[str, Any]]) -> Table:
    """The shape of the paper's Table 14, with what a mean hides: the worst decile and the shortest histories."""
    table = Table(title="quality of unseen users by the number of collective users")
    titles = ("task", "users", "trained", "method", "quality", "before stage 2", "worst decile", "quarters by history")
    for title in (*titles, "bytes"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for _, together in groupby(found, lambda row: (row["task"], row["collective"])):
        for row in together:
            quarters = [row[f"q{number}"] for number in range(1, 5)]
            told = "/".join("–" if quarter is None else f"{quarter:.2f}" for quarter in quarters)
            table.add_row(
                f"{row['task']}, {with_arrow(row['metric'])}",
                str(row["collective"]),
                f"{row['trained']:.0f}",
                row["method"],
                _mean(row, "value"),
                _mean(row, "value_collective"),
                f"{row['worst_decile']:.3f}",
                "–" if quarters == [None] * 4 else told,
                human_bytes(row["bytes_total"]),
            )
        table.add_section()
    table.caption = (
        "mean ± standard deviation over seeds; quality is over all questions, worst decile and quarters over users; "
        "trained: collective users with a turn in stage 1; quarters: the shortest histories first, "
        "– where half or more are equally long; bytes: all clients"
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
    table.caption = (
        "difference: of the means over users; ≈: within noise (paired test over users, p ≥ 0.05, not corrected for "
        "several tests)"
    )
    return table


def _newcomers_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="what a newcomer pays, and brings")
    near = f"epochs to {NEAR:.0%}"
    for title in ("task", "method", "users", "download", near, "steps", "quality by items of history"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    fewer = False
    for row in found:
        reached = row["near_final"]
        levels = []
        for items, level in row["by_history"].items():
            short = items.isdecimal() and level["items"] < float(items)
            fewer |= short
            label = f"{items} (on the mean {level['items']:.1f})" if short else items
            levels.append(f"{label}: {level['mean']:.3f} ({level['worst_decile']:.3f})")
        tried = ", ".join(map(str, row["epochs_tried"]))
        table.add_row(
            f"{row['task']}, {with_arrow(row['metric'])}",
            row["method"],
            str(row["collective"]),
            human_bytes(row["download_bytes"]),
            f"{reached['epochs']} of {tried}" if reached else f"– of {tried}",
            f"{reached['steps']:.0f}" if reached else "–",
            ", ".join(levels),
        )
    table.caption = (
        f"{near}: the fewest of those tried that reach {NEAR:.0%} of the final quality, each a training of its own; "
        "0: the collective shift alone; in brackets: the worst decile"
        + ("; on the mean: not all have so many items" if fewer else "")
    )
    return table


def _compositions_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="who the collective users are: groups of one size, the same target users")
    for title in ("task", "method", "users", "groups", "mean", "worst decile", "variance", "range"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for row in found:
        table.add_row(
            f"{row['task']}, {with_arrow(row['metric'])}",
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


def _transfer_table(collective: int, metrics: dict[str, str], methods: dict[str, Any]) -> Table:
    title = f"where the collective shift of {collective} users comes from: trained on (row), used on (column)"
    table = Table(title=title)
    for title in ("method", "trained on", *(f"{task}, {with_arrow(metric)}" for task, metric in metrics.items())):
        table.add_column(title, justify="left" if title in ("method", "trained on") else "right")
    for method, matrix in methods.items():
        for source, values in matrix["value"].items():
            worst = matrix["worst_decile"][source]
            table.add_row(method, source, *(f"{values[task]:.3f} ({worst[task]:.3f})" for task in metrics))
        table.add_section()
    table.caption = (
        "in brackets: the worst decile; sites, positions and ranks, also the private one, go with the task that a "
        "shift was trained on"
    )
    return table


def _mean(row: dict[str, Any], key: str) -> str:
    deviation = row[f"{key}_deviation"]
    return f"{row[key]:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
