"""The cost curve of a run: quality of its target users against the bytes spent."""

import pandas as pd

from simulations.experiments.comparable import Run
from strategies.wire import TRAINING


def curve(run: Run) -> pd.DataFrame:
    """Return the target users' quality after personalisation against the bytes spent.

    Bytes are those of stage 1's messages up to a round, with the opening and the target users' part in it, and of one
    download per target user for personalisation after that round. Messages that only measure (the bare backbone's
    evaluation, controls, returned statistics) are not counted.

    Returns:
        One row per evaluated round: `method, seed, round, bytes_up, bytes_down, bytes_total`, the same
        `…_per_client` (mean over all users), `metric, value`.
    """
    metric = run.record.main_metric
    ledger = run.files.ledger().to_pandas()
    rounds = run.files.rounds().to_pylist()
    midway = [(row["round"], dict(row["metrics"]).get(f"personalised.{metric}")) for row in rounds]
    points = [(number, value, "evaluate") for number, value in midway if value is not None]
    points.append((_last_round(run), run.record.metrics[metric], "personalize"))
    training = ledger[ledger.phase.isin([str(phase) for phase in TRAINING])]
    targets = ledger[ledger.user >= run.record.users.collective]  # held-out users only choose a round
    clients = run.record.users.collective + run.record.users.target
    rows = []
    for number, value, phase in points:
        so_far = training[training["round"] <= number]
        evaluated = targets[(targets.phase == phase) & (targets["round"] == number)]
        downloads = evaluated[evaluated.direction == "down"]
        up = int(so_far[so_far.direction == "up"].message_bytes.sum())
        down = int(so_far[so_far.direction == "down"].message_bytes.sum() + downloads.message_bytes.sum())
        counts = {"bytes_up": up, "bytes_down": down, "bytes_total": up + down}
        means = {f"{key}_per_client": count / clients for key, count in counts.items()}
        rows.append({"method": run.method, "seed": run.record.seed, "round": number, **counts, **means, "value": value})
    frame = pd.DataFrame(rows)
    frame.insert(frame.columns.get_loc("value"), "metric", metric)  # type: ignore[arg-type]
    return frame


def per_user(run: Run, number: int | None = None) -> dict[str, float]:
    """Return the personalised main metric of each target user that has questions, by user id.

    Args:
        run: A run.
        number: The evaluated round; None: the last.
    """
    key = f"personalised.{run.record.main_metric}"
    last = _last_round(run)
    evaluation = ("personalize", last) if number in (None, last) else ("evaluate", number)
    names = {row["partition"]: row["user_id"] for row in run.files.users().to_pylist()}
    chosen = [row for row in run.files.clients().to_pylist() if (row["phase"], row["round"]) == evaluation]
    values = {names[row["user"]]: dict(row["metrics"]).get(key) for row in chosen}
    return {user: value for user, value in values.items() if value is not None}


def _last_round(run: Run) -> int:
    """Return the round that stage 2 followed: a method may need none, and a budget of ε may end stage 1 early."""
    rows = run.files.clients(["phase", "round"]).to_pylist()
    return int(max(row["round"] for row in rows if row["phase"] == "personalize"))
