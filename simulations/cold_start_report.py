"""What a cold-start experiment found: `cold_start.csv`, `cold_start.json` and tables."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from simulations.cold_start_plots import by_history, draw, main_rows, transfer_matrix, transfers
from simulations.comparable import Run
from simulations.comparison import paired_test, spread
from simulations.tables import human_bytes
from strategies.metrics import LOWER_IS_BETTER

NEAR = 0.95
"""Share of its final quality that a newcomer's training time is counted to."""


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
        "fewest_against_most": _moonshot(runs),
        "newcomers": _newcomers(rows),
    }
    report["compositions"] = _compositions(rows)
    report["transfer"] = {
        method: json.loads(transfer_matrix(rows, method).to_json(orient="index"))
        for method in (dict.fromkeys(rows.method) if len(transfers(rows)) else ())
    }
    text = json.dumps(report, indent=1, ensure_ascii=False, default=float)
    (folder / "cold_start.json").write_text(text + "\n", encoding="utf-8")
    draw(rows, folder)
    tables = [
        _numbers_table(rows),
        _moonshot_table(report["fewest_against_most"]),
        _newcomers_table(report["newcomers"]),
    ]
    if report["compositions"]:
        tables.append(_compositions_table(report["compositions"]))
    if len(transfers(rows)):
        tables.append(_transfer_table(rows))
    return tables


def numbers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the main table, the shape of the paper's Table 14: means over seeds, and their deviation."""
    grouped = main_rows(rows).groupby(["task", "collective", "method"], sort=False)
    columns = ["value", "value_collective", "worst_decile", "q1", "q2", "q3", "q4", "bytes_total", "newcomer_bytes"]
    table = grouped[columns].mean().join(grouped.value.std().rename("deviation")).reset_index()
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found


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
            quarters = "/".join(_short(own[f"q{number}"].mean()) for number in range(1, 5))
            metric = own.metric.iloc[0]
            table.add_row(
                f"{task}, {metric}{' ↓' if metric in LOWER_IS_BETTER else ''}",
                str(count),
                str(method),
                _mean(own.value),
                _mean(own.value_collective),
                f"{own.worst_decile.mean():.3f}",
                quarters,
                human_bytes(own.bytes_total.mean()),
            )
        table.add_section()
    table.caption = "mean ± standard deviation over seeds; quarters: the shortest histories first; bytes: all clients"
    return table


def _moonshot(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Test the first method with the fewest collective users against every other with the most."""
    found = []
    first = runs[0].method
    for task in dict.fromkeys(run.config.task for run in runs):
        of_task = [run for run in runs if run.config.task == task]
        counts = sorted({run.config.users.collective for run in of_task})
        few = [run for run in of_task if run.method == first and run.config.users.collective == counts[0]]
        for method in dict.fromkeys(run.method for run in of_task):
            many = [run for run in of_task if run.method == method and run.config.users.collective == counts[-1]]
            if method != first or len(counts) > 1:
                found.append(
                    {
                        "task": task,
                        "fewest": {"method": first, "collective": counts[0]},
                        "most": {"method": method, "collective": counts[-1]},
                        **paired_test(few, many),
                    }
                )
    return found


def _moonshot_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="few collective users against many")
    for title in ("task", "", "against", "difference", "p", "target users"):
        table.add_column(title, justify="left" if title in ("task", "", "against") else "right")
    for row in found:
        few, many = (f"{row[key]['method']} with {row[key]['collective']}" for key in ("fewest", "most"))
        noise = " ≈" if row["within_noise"] else ""
        table.add_row(
            row["task"], few, many, f"{row['difference']:+.3f}{noise}", f"{row['p_value']:.4f}", str(row["users"])
        )
    table.caption = "≈: within noise (paired test over users, p ≥ 0.05, not corrected for several tests)"
    return table


def _newcomers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What a newcomer downloads, and how long it trains until it is near its final quality."""
    found = []
    plain = rows[(rows.task == rows.trained_on) & (rows.group == 0)]
    for (task, method, count), own in plain[plain.history.isna()].groupby(["task", "method", "collective"], sort=False):
        final = own[own.bytes_total.notna()]
        lower = final.metric.iloc[0] in LOWER_IS_BETTER
        goal = final.value.mean() / NEAR if lower else final.value.mean() * NEAR
        traced = own.groupby("epochs")[["value", "newcomer_steps", "newcomer_seconds"]].mean().sort_index()
        near = traced[traced.value <= goal] if lower else traced[traced.value >= goal]
        found.append(
            {
                "task": task,
                "method": method,
                "collective": int(str(count)),
                "download_bytes": final.newcomer_bytes.mean(),
                "final": spread(final.value.tolist()),
                "epochs_tried": traced.index.tolist(),
                "near_final": {"epochs": int(str(near.index[0])), **near.iloc[0].to_dict()} if len(near) else None,
                "by_history": by_history(plain, task, method, count),
            }
        )
    return found


def _newcomers_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="what a newcomer pays, and brings")
    near = f"epochs to {NEAR:.0%}"
    for title in ("task", "method", "users", "download", near, "steps", "quality by items of history"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for row in found:
        reached = row["near_final"]
        history = ", ".join(f"{items}: {level['mean']:.3f}" for items, level in row["by_history"].items())
        table.add_row(
            row["task"],
            row["method"],
            str(row["collective"]),
            human_bytes(row["download_bytes"]),
            f"{reached['epochs']} of {row['epochs_tried'][-1]}" if reached else "–",
            f"{reached['newcomer_steps']:.0f}" if reached else "–",
            history,
        )
    table.caption = f"{near}: fewest of those tried that reach {NEAR:.0%} of the final quality"
    return table


def _compositions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Variance and range over groups of one size (the paper's Table 15); seeds are averaged within a group first."""
    found = []
    own = rows[(rows.task == rows.trained_on) & rows.history.isna() & rows.bytes_total.notna()]
    sizes = own[own.group > 0].collective.unique()
    for (task, method, count), part in own[own.collective.isin(sizes)].groupby(
        ["task", "method", "collective"], sort=False
    ):
        values = part.groupby("group").value.mean()
        found.append(
            {
                "task": task,
                "method": method,
                "collective": int(str(count)),
                "groups": len(values),
                "mean": values.mean(),
                "variance": values.var(ddof=1),
                "lowest": values.min(),
                "highest": values.max(),
            }
        )
    return found


def _compositions_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="who the collective users are: groups of one size, the same target users")
    for title in ("task", "method", "users", "groups", "mean", "variance", "range"):
        table.add_column(title, justify="left" if title in ("task", "method") else "right")
    for row in found:
        table.add_row(
            row["task"],
            row["method"],
            str(row["collective"]),
            str(row["groups"]),
            f"{row['mean']:.3f}",
            f"{row['variance']:.2e}",
            f"{row['lowest']:.3f} to {row['highest']:.3f}",
        )
    return table


def _transfer_table(rows: pd.DataFrame) -> Table:
    tasks = list(dict.fromkeys(rows.task))
    table = Table(title="where the collective shift comes from: trained on (row), used on (column)")
    for title in ("method", "trained on", *tasks):
        table.add_column(title, justify="left" if title in ("method", "trained on") else "right")
    for method in dict.fromkeys(rows.method):
        matrix = transfer_matrix(rows, method)
        for source in matrix.index:
            cells = [f"{matrix.loc[source, task]:.3f}" for task in tasks]
            table.add_row(method, str(source), *cells)
        table.add_section()
    return table


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _mean(values: "pd.Series[float]") -> str:
    found = spread(values.tolist())
    return f"{found['mean']:.3f}" + (f" ± {found['std']:.3f}" if found["std"] is not None else "")
