"""What users gain by their own adapter: their quality with it, and with what else they could be sent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from simulations.experiments.comparable import Run
from simulations.experiments.comparison.schema import Control, Spread
from simulations.experiments.comparison.significance import differences_test, holm
from strategies.wire import Phase


def controls(runs: Sequence[Run]) -> dict[str, Control]:
    """Return, by control that all runs have (`Method.server_controls`), users' quality with it and the gain over it.

    Args:
        runs: One method's runs, one per seed.
    """
    metric = runs[0].record.main_metric
    gains = {run.record.seed: _gains(run) for run in runs}
    tested = {}
    for name in runs[0].record.controls:
        if not all(name in run.record.controls for run in runs):
            continue
        by_seed = {seed: of_seed[name] for seed, of_seed in gains.items() if name in of_seed}
        tested[name] = Control(
            **Spread.of([run.record.controls[name][metric] for run in runs]).model_dump(),
            own=Spread.of([own_metrics(run)[metric] for run in runs]),
            gain=differences_test(by_seed, runs[0].record.users.source) if len(by_seed) == len(runs) else None,
        )
    return tested


def correct(tested: Sequence[Control]) -> None:
    """Correct the p-values of a table's controls for their number, in place."""
    with_gain = [control for control in tested if control.gain]
    for control, gain in zip(with_gain, holm([control.gain for control in with_gain if control.gain]), strict=True):
        control.gain = gain


def own_metrics(run: Run) -> dict[str, float]:
    """Return target users' quality with their own adapter, before any training of theirs."""
    return run.record.metrics if trains_nothing(run) else run.record.metrics_collective


def trains_nothing(run: Run, phase: Phase = Phase.PERSONALIZE) -> bool:
    """Tell whether clients took no step in a phase.

    If newcomers took none, their answers after stage 2 are those with the adapter they were sent.

    A network on the clients writes adapters there; before stage 2 these users have an empty profile's.
    """
    rows = run.files.clients(["phase", "steps"]).to_pylist()
    return not any(row["steps"] for row in rows if row["phase"] == phase)


def _gains(run: Run) -> dict[str, dict[str, float]]:
    """Return by control, then user, how much better a user is with what is its own.

    Without a control of which the table does not have every user's answers, because a client failed in it.
    """
    if not run.record.controls:
        return {}
    metric = run.record.main_metric
    names = {row["partition"]: row["user_id"] for row in run.files.users().to_pylist()}
    clients = run.files.clients(["phase", "round", "user", "examples", "metrics"]).to_pandas()
    point = "personalised" if trains_nothing(run) else "collective"
    # Collective users may have judged the shared tensors after the same round.
    clients = clients[clients.user >= run.config.users.collective]
    with_own = _scores(clients[clients.phase == "personalize"], f"{point}.{metric}")
    rows = clients[(clients.phase == "evaluate") & (clients["round"] == clients["round"].max())]
    tested: dict[str, dict[str, float]] = {}
    for place, (name, values) in enumerate(run.record.controls.items()):
        # Controls are evaluated one after the other, on all target users.
        part = rows.iloc[place * len(with_own) : (place + 1) * len(with_own)]
        scores = _scores(part, f"collective.{metric}")
        if set(scores.index) == set(with_own.index) and _is_mean(scores, part.examples, values[metric]):
            gain = (with_own - scores.reindex(with_own.index)).dropna()
            tested[name] = {names[user]: float(value) for user, value in gain.items()}
    return tested


def _scores(clients: pd.DataFrame, key: str) -> "pd.Series[float]":
    """Return users' scores, by partition; NaN for a user without questions."""
    values = [dict(row).get(key, np.nan) for row in clients.metrics]
    return pd.Series(values, index=clients.user, dtype=float)


def _is_mean(scores: "pd.Series[float]", questions: "pd.Series[int]", expected: float) -> bool:
    """Tell whether these are the scores that a run's figure was made of; questions have equal weight in it."""
    weights = questions.to_numpy() * scores.notna().to_numpy()
    return bool(weights.any()) and abs(np.average(scores.fillna(0), weights=weights) - expected) < 1e-6
