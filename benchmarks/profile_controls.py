"""What users' own profiles gain over Profile-to-PEFT's controls: `python -m benchmarks.profile_controls RECORD…`.

For each control the mean difference over all target users of all records, a 95 % bootstrap interval and a sign-flip
permutation test over users. The trainings of Ψ are as many as there are records.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from configs.errors import InputError
from fl_server.record.folder import RunFolder

_RESAMPLES = 10_000


def scores(clients: pd.DataFrame, metric: str) -> "pd.Series[float]":
    """Return users' scores with what they were sent, by user."""
    values = [dict(row)[f"collective.{metric}"] for row in clients.metrics]
    return pd.Series(values, index=clients.user, dtype=float)


def gains(record: Path, metric: str) -> dict[str, np.ndarray]:
    """Return by control how much better every target user is with its own profile.

    Raises:
        InputError: The run has no controls, or their answers are not all in its table.
    """
    files = RunFolder(record)
    run = files.record
    clients = files.clients(["phase", "round", "user", "examples", "metrics"]).to_pandas()
    own = scores(clients[clients.phase == "personalize"], metric)
    found: dict[str, np.ndarray] = {}
    rows = clients[(clients.phase == "evaluate") & (clients["round"] == clients["round"].max())]
    for place, (name, values) in enumerate(run.controls.items()):
        part = rows.iloc[place * len(own) : (place + 1) * len(own)]
        with_control = scores(part, metric)
        # Questions have equal weight in the run's figure.
        mean = np.average(with_control, weights=part.examples) if len(part) == len(own) else np.nan
        if not abs(mean - values[metric]) < 1e-6:
            raise InputError(f"{record}: its table does not have every user's answers {name}")
        found[name] = (own - with_control.reindex(own.index)).to_numpy()
    if not found:
        raise InputError(f"{record}: this run has no controls")
    return found


def summary(differences: np.ndarray) -> str:
    """Return the mean, the interval and p as text."""
    draws = {"n_resamples": _RESAMPLES, "rng": np.random.default_rng(0)}
    interval = stats.bootstrap((differences,), np.mean, method="percentile", **draws).confidence_interval
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", **draws)
    return f"{differences.mean():+.3f} ({interval.low:+.3f} to {interval.high:+.3f}), p = {test.pvalue:.3f}"


def main() -> None:
    """Print a line for each control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="completed runs of Profile-to-PEFT")
    parser.add_argument("--metric", default="accuracy")
    given = parser.parse_args()
    each = [gains(record, given.metric) for record in given.records]
    for name in each[0]:
        print(f"own profile against {name}: {summary(np.concatenate([found[name] for found in each]))}")


if __name__ == "__main__":
    main()
