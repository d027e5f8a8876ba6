"""What run records say beside each other: quality, bytes, cost curves, and whether a difference is more than noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import stats

from configs.errors import InputError
from configs.load import read_resolved
from configs.schema import RunConfig
from fl_server.records import RunRecord, read_run
from strategies.metrics import LOWER_IS_BETTER

SHARES = (0.90, 0.95, 0.99)
"""Shares of the best quality that bytes are counted to."""
SIGNIFICANCE = 0.05
_RESAMPLES = 9999
_ALIKE = (
    "task",
    "backbone",
    "precision",
    "decoding",
    "cohort",
    "users.collective",
    "users.target",
    "personal.max_tokens",
    "devices",
    "robust",
)
"""Config keys in which compared runs must not differ; rounds may, since curves are read at bytes."""


@dataclass(frozen=True)
class Run:
    """One run record in a comparison."""

    method: str
    """Its row's name."""
    folder: Path
    config: RunConfig
    record: RunRecord

    @classmethod
    def read(cls, folder: Path, method: str | None = None) -> "Run":
        """Read a record; its row is called as its method is unless said otherwise.

        Raises:
            InputError: No record, or of a run that did not complete.
        """
        record = read_run(folder)
        if record.status != "completed":
            raise InputError(f"{folder}: this run's status is {record.status}; only completed runs are compared")
        return cls(method or record.method, folder, read_resolved(folder / "config.toml"), record)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in more than their methods.

    Raises:
        InputError: Names the first difference, and the two records.
    """
    first = runs[0]
    for run in runs[1:]:
        if difference := difference_in_evaluation(first.config, run.config):
            _refuse_difference(first, run, *difference)
    seen: dict[tuple[str, int], Run] = {}
    by_seed: dict[int, Run] = {}
    for run in runs:
        seed = run.record.seed
        if (run.method, seed) in seen:
            other = seen[run.method, seed].folder
            raise InputError(f"{other} and {run.folder}: both are {run.method} with seed {seed}")
        seen[run.method, seed] = run
        twin = by_seed.setdefault(seed, run)
        ours, theirs = (each.record.users.data_sha256[:12] for each in (twin, run))
        _refuse_difference(twin, run, "users (data_sha256)", ours, theirs)
    seeds = {method: sorted(run.record.seed for run in runs if run.method == method) for method, _ in seen}
    for run in runs:
        _refuse_difference(first, run, "seeds", seeds[first.method], seeds[run.method])


def difference_in_evaluation(ours: RunConfig, theirs: RunConfig) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, in which two configs would not be evaluated alike; None if in none."""
    for key in _ALIKE:
        values = []
        for config in (ours, theirs):
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            values.append(value)
        if values[0] != values[1]:
            return key, values[0], values[1]
    return None


def _refuse_difference(first: Run, run: Run, key: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise InputError(
            f"{first.folder} and {run.folder} cannot be compared: {key} is {ours!r} in one and {theirs!r} in the other"
        )


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


def per_user(run: Run) -> dict[str, float]:
    """Return the personalised main metric of each target user that has questions, by user id."""
    key = f"personalised.{run.record.main_metric}"
    names = {row["partition"]: row["user_id"] for row in _rows(run, "users")}
    chosen = [row for row in _rows(run, "clients") if row["phase"] == "personalize"]
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
        What `compare.json` holds, and all curves, one below the other.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    curves = pd.concat([curve(run) for run in runs], ignore_index=True)
    first = runs[0]
    metric = first.record.main_metric
    lower = metric in LOWER_IS_BETTER
    final = {method: [run.record.metrics[metric] for run in runs if run.method == method] for method in methods}
    means = {method: float(np.mean(values)) for method, values in final.items()}
    best = (min if lower else max)(means, key=lambda method: means[method])
    mean_curves = {method: _mean_curve(curves[curves.method == method]) for method in methods}
    budget = float(mean_curves[reference].bytes_total.iloc[-1])
    theirs = [run for run in runs if run.method == reference]
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
                    f"{share:.0%}": _bytes_to(line, means[best] / share if lower else means[best] * share, lower)
                    for share in SHARES
                },
                "quality_at_equal_bytes": _quality_at(curves[curves.method == method], budget),
                "params": {"shared": own[0].record.params.shared, "private": own[0].record.params.private},
                "seconds": _seconds(own),
                "against": None if method == reference else paired_test(own, theirs),
            }
        )
    report = {
        "schema": 1,
        "task": first.config.task,
        "backbone": first.config.backbone,
        "metric": metric,
        "lower_is_better": lower,
        "seeds": sorted({run.record.seed for run in runs}),
        "users": {"collective": first.record.users.collective, "target": first.record.users.target},
        "reference": reference,
        "best": best,
        "equal_bytes": budget,
        "base": spread([run.record.metrics_base[metric] for run in runs if run.method == reference]),
        "methods": rows,
        "runs": [
            {"method": r.method, "seed": r.record.seed, "folder": str(r.folder), "commit": r.record.git.get("commit")}
            for r in runs
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


def _bytes_to(line: pd.DataFrame, wanted: float, lower: bool) -> float | None:
    """The bytes spent at the first evaluated round whose mean quality is good enough; None if none is."""
    reached = line[line.value <= wanted] if lower else line[line.value >= wanted]
    return float(reached.bytes_total.iloc[0]) if len(reached) else None


def _quality_at(curves: pd.DataFrame, budget: float) -> dict[str, Any] | None:
    """Each seed's quality at the last evaluated round within the budget; None if a first one is beyond it."""
    values = []
    for _, line in curves.groupby("seed"):
        within = line[line.bytes_total <= budget * (1 + 1e-3)]  # random ids make messages differ by some bytes
        if not len(within):
            return None
        values.append(float(within.value.iloc[-1]))
    return spread(values)


def _seconds(runs: Sequence[Run]) -> dict[str, float | None]:
    """Seconds of local computation: mean of one client's turn in a round, and of one target user's stage 2."""
    tables = [pd.read_parquet(run.folder / "clients.parquet") for run in runs]
    clients = pd.concat(tables, ignore_index=True)
    clients = clients[clients["round"] > 0]
    means = {phase: float(clients[clients.phase == phase].wall_s.mean()) for phase in ("train", "personalize")}
    return {phase: None if math.isnan(mean) else mean for phase, mean in means.items()}


def paired_test(own: Sequence[Run], reference: Sequence[Run]) -> dict[str, Any]:
    """Compare two lists of runs user by user: a paired sign-flip permutation test of the mean difference, two-sided.

    A user who is there with several seeds is one user: its differences are averaged first.

    Args:
        own: One run a seed.
        reference: As many, with the same seeds and target users.
    """
    differences: dict[tuple[object, ...], list[float]] = {}
    theirs = {run.record.seed: per_user(run) for run in reference}
    for run in own:
        for user, value in per_user(run).items():
            # Synthetic users of another seed are other people, whatever they are called.
            person = (run.record.seed, user) if run.record.users.source == "synthetic" else (user,)
            differences.setdefault(person, []).append(value - theirs[run.record.seed][user])
    values = np.array([np.mean(each) for each in differences.values()])
    if not values.any():
        p_value = 1.0
    else:
        test = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
        )
        p_value = float(test.pvalue)
    return {
        "difference": float(values.mean()),
        "p_value": p_value,
        "users": len(values),
        "within_noise": p_value >= SIGNIFICANCE,
    }
