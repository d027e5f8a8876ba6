"""Trackers get every round and the final figures, and never stop a run."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import write_config
from configs.schema import RunConfig
from fl_server.record.schema import read_run
from simulations.cli.main import app
from simulations.display import trackers
from tests.conftest import TINY

pytestmark = pytest.mark.integration


def tracked(results: Path, *names: str) -> str:
    words = ["simulate", *TINY, "--name", "run", "--results", str(results)]
    words += [word for name in names for word in ("--track", name)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert read_run(results / "run").status == "completed"
    return done.output + done.stderr


def test_tensorboard_reads_rounds_and_final_figures(tmp_path: Path) -> None:
    tracked(tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    record = read_run(tmp_path / "run")
    assert events.Scalars("final/personalised.accuracy")[0].value == pytest.approx(record.metrics["accuracy"])
    assert events.Scalars("final/bytes.up")[0].value == pytest.approx(record.bytes.up)


def test_users_ids_stay_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda _folder, settings: kept.update(settings))  # type: ignore[arg-type]
    ids = {"select": "listed", "collective_ids": ["anna"], "target_ids": ["ben"], "collective": 1, "target": 1}
    write_config(RunConfig.model_validate({"users": ids, "cohort": 1}), tmp_path / "config.toml")
    trackers.TrackedRun("tensorboard", tmp_path)
    assert kept["users.select"] == "listed"
    assert not [value for value in kept.values() if "anna" in value or "ben" in value]


def test_weights_and_biases_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracked(tmp_path, "wandb")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    for key in (b"loss", b"final.personalised.accuracy", b"users.collective"):
        assert key in content


def test_mlflow_writes_its_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked(tmp_path, "mlflow")
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("fedperfit")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["users.collective"] == "6"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]
    assert run.data.metrics["final.personalised.accuracy"] == read_run(tmp_path / "run").metrics["accuracy"]


def test_missing_package_is_named_with_its_extra_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"track=wandb: not installed; `pip install 'fedperfit\[wandb\]'` adds it"):
        tracked(tmp_path, "wandb")
    with pytest.raises(InputError, match=r"track=mlflov: expected one of .*; did you mean 'mlflow'\?"):
        tracked(tmp_path, "mlflov")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_failing_tracker_does_not_stop_the_run(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        package = "json"

        def __init__(self, _folder: Path, _settings: object) -> None:
            self._fail("open")

        def log(self, _values: object, _step: int) -> None:
            self._fail("log")

        def close(self, _status: str) -> None:
            self._fail("close")

        def _fail(self, now: str) -> None:
            if now == when:
                raise OSError("no route to the tracker")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Broken)
    assert "tracker wandb failed and is not used any more: no route to the tracker" in tracked(tmp_path, "wandb")
