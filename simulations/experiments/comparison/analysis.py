"""What run records say beside each other: quality, bytes, cost curves, and whether a difference is more than noise."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from simulations.experiments.comparable import Run, other_settings
from simulations.experiments.comparison.curves import curve
from simulations.experiments.comparison.significance import paired_test
from strategies.metrics.statistics import LOWER_IS_BETTER

SCHEMA = 4
"""Of `compare.json`."""
SHARES = (0.90, 0.95, 0.99)
"""Shares of the best quality that bytes are counted to."""
_IDS = 1e-3
"""Share by which messages may differ through Flower's random ids."""


def compare_runs(runs: Sequence[Run], reference: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Work a comparison out.

    Args:
        runs: Comparable; every method with the same seeds.
        reference: The method that all others are tested against.

    Returns:
        What `compare.json` holds, seeds in rising order wherever there is one value for each, and all curves, one
        below the other.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    runs = sorted(runs, key=lambda run: (methods.index(run.method), run.record.seed))
    curves = pd.concat([curve(run) for run in runs], ignore_index=True)
    first = runs[0]
    metric = first.record.main_metric
    lower = metric in LOWER_IS_BETTER
    final = {method: [run.record.metrics[metric] for run in runs if run.method == method] for method in methods}
    means = {method: float(np.mean(values)) for method, values in final.items()}
    best = (min if lower else max)(means, key=lambda method: means[method])
    mean_curves = {method: _mean_curve(curves[curves.method == method]) for method in methods}
    budgets = _budgets(curves, reference)
    theirs = [run for run in runs if run.method == reference]
    seeds = [run.record.seed for run in theirs]
    rows = []
    for method in methods:
        own = [run for run in runs if run.method == method]
        pooled = {
            stage: [getattr(run.record, field)[metric] for run in own]
            for stage, field in (("collective", "metrics_collective"), ("personalised", "metrics"))
        }
        line = mean_curves[method]
        rows.append(
            {
                "method": method,
                "quality": spread(pooled["personalised"]),
                "quality_collective": spread(pooled["collective"]),
                "bytes": {key: float(np.mean([getattr(r.record.bytes, key) for r in own])) for key in _BYTES}
                | {"in_all": float(line.bytes_total.iloc[-1])},
                "bytes_to_reach": {
                    f"{share:.0%}": {
                        "mean_curve": _bytes_to(line, means[best], share, lower),
                        "per_seed": [
                            _bytes_to(curves[(curves.method == method) & (curves.seed == seed)], value, share, lower)
                            for seed, value in zip(seeds, final[best], strict=True)
                        ],
                    }
                    for share in SHARES
                },
                "quality_at_equal_bytes": [_quality_at(own, theirs, curves, each) for each in budgets],
                "learning_rates": {
                    "local": own[0].config.local.lr if own[0].record.params.shared else None,
                    "personal": own[0].config.personal.lr if own[0].record.params.private else None,
                },
                "params": {"shared": own[0].record.params.shared, "private": own[0].record.params.private},
                "seconds": _seconds(own),
                "against": None if method == reference else paired_test(own, theirs),
            }
        )
    report = {
        "schema": SCHEMA,
        "task": first.config.task,
        "backbone": first.config.backbone,
        "metric": metric,
        "lower_is_better": lower,
        "seeds": seeds,
        "users": {"collective": first.record.users.collective, "target": first.record.users.target},
        "reference": reference,
        "best": best,
        "equal_bytes": [float(budget.mean()) for budget in budgets],
        "other_settings": other_settings(runs),
        "base": spread([run.record.metrics_base[metric] for run in runs if run.method == reference]),
        "methods": rows,
        "runs": [
            {
                "method": run.method,
                "seed": run.record.seed,
                "folder": str(run.folder),
                "commit": run.record.git.get("commit"),
                "dirty": run.record.git.get("dirty"),
            }
            for run in runs
        ],
    }
    return report, curves


_BYTES = ("per_client_round_up", "per_client_round_down")


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation over seeds (None of one seed) and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "per_seed": values}


def _mean_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds, round by round; seeds of one method are evaluated after the same rounds."""
    return frame.groupby("round", as_index=False)[["bytes_total", "value"]].mean()


def _budgets(curves: pd.DataFrame, reference: str) -> list["pd.Series[float]"]:
    """Return the bytes the reference takes in all, and the fewest within which every method was evaluated, by seed."""
    whole = curves[curves.method == reference].groupby("seed").bytes_total.max()
    least = curves.groupby(["method", "seed"]).bytes_total.min().groupby("seed").max()
    different = not np.allclose(whole, least, rtol=_IDS)
    return sorted([whole, least], key=lambda budget: float(budget.mean())) if different else [whole]


def _bytes_to(line: pd.DataFrame, best: float, share: float, lower: bool) -> float | None:
    """The bytes spent at the first evaluated round with that share of the best quality; None if none has it."""
    if not best and not lower:
        return None  # nobody has any
    reached = line[line.value <= best / share] if lower else line[line.value >= best * share]
    return float(reached.bytes_total.iloc[0]) if len(reached) else None


def _quality_at(
    own: Sequence[Run], reference: Sequence[Run], curves: pd.DataFrame, budget: "pd.Series[float]"
) -> dict[str, Any] | None:
    """Each seed's quality at the last evaluated round within its budget; None if a first one is beyond it.

    `against` is the test against the reference within the same bytes, None of itself.
    """
    ours, theirs = (_within(curves[curves.method == runs[0].method], budget) for runs in (own, reference))
    if ours is None or theirs is None:
        return None
    rounds = [{seed: number for seed, (number, _) in looks.items()} for looks in (ours, theirs)]
    against = paired_test(own, reference, *rounds) if own[0].method != reference[0].method else None
    return {**spread([value for _, value in ours.values()]), "against": against}


def _within(line: pd.DataFrame, budget: "pd.Series[float]") -> dict[int, tuple[int, float]] | None:
    """Each seed's last evaluated round within its budget and the quality after it; None if a first one is beyond it."""
    looks = {}
    columns = (line[key].tolist() for key in ("seed", "round", "bytes_total", "value"))
    for seed, number, spent, value in sorted(zip(*columns, strict=True)):
        if spent <= budget[seed] * (1 + _IDS):
            looks[seed] = (number, value)
    return looks if len(looks) == line.seed.nunique() else None


def _seconds(runs: Sequence[Run]) -> dict[str, float | None]:
    """Seconds of local computation: mean of a client's turn in the opening, in a round, and of a target's stage 2."""
    tables = [pd.read_parquet(run.folder / "clients.parquet") for run in runs]
    clients = pd.concat(tables, ignore_index=True)
    training, opening = clients.phase == "train", clients["round"] == 0
    parts = {"opening": training & opening, "train": training & ~opening, "personalize": clients.phase == "personalize"}
    means = {part: float(clients[chosen].wall_s.mean()) for part, chosen in parts.items()}
    return {part: None if math.isnan(mean) else mean for part, mean in means.items()}
