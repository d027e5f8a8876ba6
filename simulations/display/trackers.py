"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, each an optional extra.

A tracker gets the figures of each round from `events.jsonl`, and the record's figures at the end. All data stays on
this machine unless the tracker's environment variables (`WANDB_MODE`, `MLFLOW_TRACKING_URI`) say otherwise.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.errors import InputError, nearest
from configs.load import flatten
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord

_NO_FIGURES = {"time", "round", "rounds", "updates"}
_ENDS = {"completed": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class Tracker(Protocol):
    """A destination for a run's figures."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the figures of a round."""

    def close(self, status: str) -> None:
        """Close; `status` is the record's."""


class TensorBoard:
    """Event files in the record's folder `tensorboard/`."""

    package = "tensorboard"

    def __init__(self, folder: Path, _settings: Mapping[str, str]) -> None:
        """Open `folder/tensorboard`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for key, value in values.items():
            self._writer.add_scalar(key.replace(".", "/", 1), value, step)
        self._writer.flush()

    def close(self, _status: str) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `fedperfit`, offline in the record's folder `wandb/` unless `WANDB_MODE` is set."""

    package = "wandb"

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Start a run."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project="fedperfit", name=folder.name, dir=folder, config=dict(settings), mode=mode, settings=quiet
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log a step."""
        self._run.log(dict(values), step=step)

    def close(self, status: str) -> None:
        """Finish the run."""
        self._run.finish(exit_code=int(status != "completed"))


class MLflow:
    """A run of the experiment `fedperfit`, in `mlruns/` next to the record unless `MLFLOW_TRACKING_URI` is set."""

    package = "mlflow"

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Create a run."""
        from mlflow import MlflowClient

        # MLflow requires this opt-in for its file store; a database would need a server's packages.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or (folder.parent / "mlruns").as_uri())
        known = self._client.get_experiment_by_name("fedperfit")
        experiment = known.experiment_id if known else self._client.create_experiment("fedperfit")
        self._id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._id, key, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def close(self, status: str) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._id, _ENDS.get(status, "FAILED"))


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class TrackedRun:
    """Passes the events of one run to a tracker."""

    def __init__(self, name: str, folder: Path) -> None:
        """Open the tracker for a run record."""
        settings = flatten(RunFolder(folder).config)
        for key in ("users.collective_ids", "users.target_ids"):
            settings.pop(key, None)  # a tracker's files have other readers than a record
        self._folder = folder
        self._round = 0
        self._tracker: Tracker = TRACKERS[name](folder, {key: str(value) for key, value in settings.items()})

    def show(self, event: Mapping[str, Any]) -> None:
        """Pass on one event."""
        kind = event["event"]
        if kind == "round":
            self._round = event["round"]
            figures = {key: value for key, value in event.items() if isinstance(value, int | float)}
            self._tracker.log({key: figures[key] for key in figures.keys() - _NO_FIGURES}, self._round)
        elif kind == "completed":
            self._tracker.log(_final(RunFolder(self._folder).record), self._round)

    def close(self) -> None:
        """Close the tracker with the record's current status."""
        self._tracker.close(RunFolder(self._folder).record.status)


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot be used.

    Raises:
        InputError: It is unknown, or its package is not installed.
    """
    if name not in TRACKERS:
        raise InputError(
            f"expected one of {', '.join(TRACKERS)}{nearest(name, list(TRACKERS))}", field="track", value=name
        )
    if importlib.util.find_spec(TRACKERS[name].package) is None:
        raise InputError(f"not installed; `pip install 'fedperfit[{name}]'` adds it", field="track", value=name)


def _final(record: RunRecord) -> dict[str, float]:
    points = {"base": record.metrics_base, "collective": record.metrics_collective, "personalised": record.metrics}
    figures = {f"final.{point}.{key}": value for point, metrics in points.items() for key, value in metrics.items()}
    sizes = {"final.bytes.up": record.bytes.up, "final.bytes.down": record.bytes.down}
    return figures | sizes | {"final.wall_s": record.wall_s}
