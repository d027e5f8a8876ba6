"""Analysis of compared runs: quality, bytes, cost curves, and whether differences exceed noise."""

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
"""Schema version of `compare.json`."""
SHARES = (0.90, 0.95, 0.99)
"""Shares of the best quality for which the bytes to reach them are reported."""
_IDS = 1e-3
"""Relative difference in message bytes that Flower's random ids may cause."""


def compare_runs(runs: Sequence[Run], reference: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Analyse a comparison.

    Args:
        runs: Comparable runs; every method has the same seeds.
        reference: The method that all others are tested against.

    Returns:
        The contents of `compare.json`, with per-seed values in increasing order of seeds, and all curves in one frame.
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
            point: [getattr(run.record, field)[metric] for run in own]
            for point, field in (("collective", "metrics_collective"), ("personalised", "metrics"))
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
    """Return the mean, the standard deviation over seeds (None for one seed) and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "per_seed": values}


def _mean_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds for each round; seeds of one method are evaluated after the same rounds."""
    return frame.groupby("round", as_index=False)[["bytes_total", "value"]].mean()


def _budgets(curves: pd.DataFrame, reference: str) -> list["pd.Series[float]"]:
    """Return, by seed, the reference's total bytes and the fewest bytes within which every method was evaluated."""
    whole = curves[curves.method == reference].groupby("seed").bytes_total.max()
    least = curves.groupby(["method", "seed"]).bytes_total.min().groupby("seed").max()
    different = not np.allclose(whole, least, rtol=_IDS)
    return sorted([whole, least], key=lambda budget: float(budget.mean())) if different else [whole]


def _bytes_to(line: pd.DataFrame, best: float, share: float, lower: bool) -> float | None:
    """The bytes spent at the first evaluated round with that share of the best quality, or None."""
    if not best and not lower:
        return None  # the best quality is 0, which has no shares
    reached = line[line.value <= best / share] if lower else line[line.value >= best * share]
    return float(reached.bytes_total.iloc[0]) if len(reached) else None


def _quality_at(
    own: Sequence[Run], reference: Sequence[Run], curves: pd.DataFrame, budget: "pd.Series[float]"
) -> dict[str, Any] | None:
    """Each seed's quality at the last evaluated round within its budget; None if a seed has no such round.

    `against` is the test against the reference within the same bytes; None for the reference itself.
    """
    ours, theirs = (_within(curves[curves.method == runs[0].method], budget) for runs in (own, reference))
    if ours is None or theirs is None:
        return None
    rounds = [{seed: number for seed, (number, _) in last.items()} for last in (ours, theirs)]
    against = paired_test(own, reference, *rounds) if own[0].method != reference[0].method else None
    return {**spread([value for _, value in ours.values()]), "against": against}


def _within(line: pd.DataFrame, budget: "pd.Series[float]") -> dict[int, tuple[int, float]] | None:
    """Each seed's last evaluated round within its budget, with its quality; None if a seed has no such round."""
    last = {}
    columns = (line[key].tolist() for key in ("seed", "round", "bytes_total", "value"))
    for seed, number, spent, value in sorted(zip(*columns, strict=True)):
        if spent <= budget[seed] * (1 + _IDS):
            last[seed] = (number, value)
    return last if len(last) == line.seed.nunique() else None


def _seconds(runs: Sequence[Run]) -> dict[str, float | None]:
    """Mean seconds of a client's local computation in the opening, in a round, and in stage 2."""
    tables = [pd.read_parquet(run.folder / "clients.parquet") for run in runs]
    clients = pd.concat(tables, ignore_index=True)
    training, opening = clients.phase == "train", clients["round"] == 0
    parts = {"opening": training & opening, "train": training & ~opening, "personalize": clients.phase == "personalize"}
    means = {part: float(clients[chosen].wall_s.mean()) for part, chosen in parts.items()}
    return {part: None if math.isnan(mean) else mean for part, mean in means.items()}
