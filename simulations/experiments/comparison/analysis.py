"""What run records say beside each other: quality, bytes, cost curves, and whether a difference is more than noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import stats

from simulations.comparable import Run, other_settings
from strategies.metrics import LOWER_IS_BETTER

SCHEMA = 4
"""Of `compare.json`."""
SHARES = (0.90, 0.95, 0.99)
"""Shares of the best quality that bytes are counted to."""
SIGNIFICANCE = 0.05
_RESAMPLES = 9999
_IDS = 1e-3
"""Share by which messages may differ through Flower's random ids."""


def curve(run: Run) -> pd.DataFrame:
    """Return the target users' quality after personalisation against the bytes spent until then.

    Bytes are those of stage 1's messages up to a round, its opening included, and of what the target users download to
    be personalised after it, once. Messages that only measure (the bare backbone's evaluation, the statistics that come
    back) are left out.

    Returns:
        One row per evaluated round: `method, seed, round, bytes_up, bytes_down, bytes_total`, the same
        `…_per_client` (mean over all users), `metric, value`.
    """
    metric = run.record.main_metric
    ledger = pd.read_parquet(run.folder / "ledger.parquet")
    looks = [(row["round"], dict(row["metrics"]).get(f"personalised.{metric}")) for row in _rows(run, "rounds")]
    points = [(number, value, "evaluate") for number, value in looks if value is not None]
    points.append((run.config.rounds, run.record.metrics[metric], "personalize"))
    training = ledger[ledger.phase == "train"]
    clients = run.record.users.collective + run.record.users.target
    rows = []
    for number, value, phase in points:
        so_far = training[training["round"] <= number]
        given = ledger[(ledger.phase == phase) & (ledger["round"] == number) & (ledger.direction == "down")]
        up = int(so_far[so_far.direction == "up"].message_bytes.sum())
        down = int(so_far[so_far.direction == "down"].message_bytes.sum() + given.message_bytes.sum())
        counts = {"bytes_up": up, "bytes_down": down, "bytes_total": up + down}
        each = {f"{key}_per_client": count / clients for key, count in counts.items()}
        rows.append({"method": run.method, "seed": run.record.seed, "round": number, **counts, **each, "value": value})
    frame = pd.DataFrame(rows)
    frame.insert(frame.columns.get_loc("value"), "metric", metric)  # type: ignore[arg-type]
    return frame


def per_user(run: Run, number: int | None = None) -> dict[str, float]:
    """Return the personalised main metric of each target user that has questions, by user id.

    Args:
        run: A run.
        number: After which evaluated round; None: the last.
    """
    key = f"personalised.{run.record.main_metric}"
    look = ("personalize", run.config.rounds) if number in (None, run.config.rounds) else ("evaluate", number)
    names = {row["partition"]: row["user_id"] for row in _rows(run, "users")}
    chosen = [row for row in _rows(run, "clients") if (row["phase"], row["round"]) == look]
    values = {names[row["user"]]: dict(row["metrics"]).get(key) for row in chosen}
    return {user: value for user, value in values.items() if value is not None}


def _rows(run: Run, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run.folder / f"{table}.parquet").to_pylist()
    return rows


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


def paired_test(
    own: Sequence[Run],
    reference: Sequence[Run],
    rounds: Mapping[int, int] | None = None,
    reference_rounds: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Compare two lists of runs user by user: a paired sign-flip permutation test of the mean difference, two-sided.

    `interval` is a 95 % interval of that mean, by resampling users; None of fewer than two.

    A user of real data who is there with several seeds is one user, whose differences are averaged first; synthetic
    users of another seed are other people. Users count alike, however many questions they have. Chance in training is
    not counted: users of a seed share its trainings. `per_seed`, the difference with each seed, hints at it.

    Args:
        own: One run a seed.
        reference: As many, with the same seeds and target users.
        rounds: The evaluated round that is meant, by seed; None: the last.
        reference_rounds: The same for the reference.
    """
    differences: dict[tuple[object, ...], list[float]] = {}
    by_seed: dict[int, list[float]] = {}
    ours, theirs = (
        {run.record.seed: per_user(run, numbers[run.record.seed] if numbers else None) for run in runs}
        for runs, numbers in ((own, rounds), (reference, reference_rounds))
    )
    for run in own:
        seed = run.record.seed
        for user, value in ours[seed].items():
            # Synthetic users of another seed are other people, whatever they are called.
            person = (seed, user) if run.record.users.source == "synthetic" else (user,)
            differences.setdefault(person, []).append(value - theirs[seed][user])
            by_seed.setdefault(seed, []).append(value - theirs[seed][user])
    values = np.array([np.mean(each) for each in differences.values()])
    if not values.any() or len(values) < 2:
        p_value = 1.0
    else:
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
        )
        p_value = float(test.pvalue)
    return {
        "difference": float(values.mean()),
        "per_seed": [float(np.mean(by_seed[seed])) for seed in sorted(by_seed)],
        "interval": _interval(values),
        "p_value": p_value,
        "users": len(values),
        "within_noise": p_value >= SIGNIFICANCE,
    }


def _interval(values: np.ndarray) -> list[float] | None:
    if len(values) < 2:
        return None
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]
