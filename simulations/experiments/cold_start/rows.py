"""One run of a cold-start experiment as a row: settings, quality, the worst-served users, bytes, time."""

import os
from pathlib import Path

import pandas as pd

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import curve
from strategies.metrics.statistics import LOWER_IS_BETTER, spread_over_users

COLUMNS = (
    *("task", "trained_on", "method", "collective", "group", "history", "epochs", "seed", "metric"),
    *("second_metric", "second_value"),
    *("value", "value_collective", "value_base", "worst_decile", "worst_decile_collective", "q1", "q2", "q3", "q4"),
    *("shared_parameters", "trained", "bytes_total"),
    *("newcomer_bytes", "newcomer_upload_bytes", "newcomer_items"),
    *("newcomer_steps", "newcomer_turn_seconds"),
    *("commit", "dirty", "folder"),
)
"""Columns of `cold_start.csv`."""


def tabulate(run: Run, folder: Path, trained_on: str | None = None) -> dict[str, object]:
    """Return one run as a row: settings, quality, the worst-served users, bytes, time.

    Args:
        run: A completed run, possibly from another folder.
        folder: The experiment's folder; the run's path is given relative to it.
        trained_on: The task its shift was trained on, if the shift is another run's.
    """
    record, config = run.record, run.config
    metric = record.main_metric
    last = curve(run).iloc[-1]
    second = next((key for key in record.metrics if key not in (metric, "outside")), None)
    clients = run.files.clients().to_pandas()
    personal, introduced = clients[clients.phase == "personalize"], clients[clients.phase == "introduce"]
    users = run.files.users().to_pandas().set_index("partition")
    ledger = run.files.ledger().to_pandas()
    ours = ledger[ledger.phase.isin(["personalize", "introduce"])]
    download = ours[ours.direction == "down"].message_bytes.sum()
    upload = ours[(ours.direction == "up") & (ours.phase == "introduce")].message_bytes.sum()
    worst = "p90" if metric in LOWER_IS_BETTER else "p10"
    before = spread_over_users([{metric: value} for value in _by_user(personal, f"collective.{metric}").values()])
    return {
        "task": config.task,
        "trained_on": trained_on or config.task,
        "method": run.method,
        "collective": config.users.collective,
        "group": config.users.group,
        "history": config.users.target_history,
        "epochs": config.personal.epochs,
        "seed": record.seed,
        "metric": metric,
        "second_metric": second,
        "second_value": record.metrics[second] if second else None,
        "value": record.metrics[metric],
        "value_collective": record.metrics_collective[metric],
        "value_base": record.metrics_base[metric],
        "worst_decile": record.per_user[metric][worst],
        "worst_decile_collective": before[metric][worst],
        **_quartiles(_by_user(personal, f"personalised.{metric}"), users.history.loc[personal.user]),
        "shared_parameters": record.params.shared,
        "trained": clients[(clients.phase == "train") & (clients.status == "ok")].user.nunique(),
        "bytes_total": None if config.start_from else int(last.bytes_total),
        "newcomer_bytes": float(download / len(personal)),
        "newcomer_upload_bytes": float(upload / len(personal)),
        "newcomer_items": float(users.history.loc[personal.user].mean()),
        "newcomer_steps": float(personal.steps.mean()),
        "newcomer_turn_seconds": float((personal.wall_s.sum() + introduced.wall_s.sum()) / len(personal)),
        "commit": record.git.get("commit"),
        "dirty": record.git.get("dirty"),
        "folder": os.path.relpath(run.folder, folder),
    }


def _by_user(personal: pd.DataFrame, key: str) -> dict[int, float]:
    """The value of `key` for each target user that has questions."""
    values = {user: dict(metrics).get(key) for user, metrics in zip(personal.user, personal.metrics, strict=True)}
    return {user: value for user, value in values.items() if value is not None}


def _quartiles(values: dict[int, float], lengths: "pd.Series[int]") -> dict[str, float | None]:
    """Mean quality of the target users in each quarter by history length, q1 the shortest.

    None if the middle half or more have the same length, since the quarters would be ties.
    """
    if lengths.quantile(0.25) == lengths.quantile(0.75):
        return {f"q{number}": None for number in range(1, 5)}
    # Ties are broken by partition, so that quarters have equal sizes.
    order = sorted(values, key=lambda user: (lengths[user], user))
    quarters: dict[str, float | None] = {}
    for number in range(4):
        chosen = order[len(order) * number // 4 : len(order) * (number + 1) // 4]
        quarters[f"q{number + 1}"] = sum(values[user] for user in chosen) / len(chosen) if chosen else None
    return quarters
