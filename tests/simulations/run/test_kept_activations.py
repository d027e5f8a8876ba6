"""Whole runs with and without stored hidden states: equal losses, and the same bits whatever was stored before."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from configs.load import read_resolved
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDPERFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def losses(folder: Path) -> list[float]:
    rows = pq.read_table(folder / "clients.parquet").to_pylist()
    return [row[key] for row in rows for key in ("loss_first", "loss_last") if row[key] is not None]


@pytest.mark.parametrize(("task", "positions"), [("movie_tagging", "all"), ("tweet_paraphrase", "l3")])
def test_losses_agree_and_predictions_are_the_same_with_and_without_stored_states(
    task: str, positions: str, tmp_path: Path, own_cache: Path
) -> None:
    words = [f"task={task}", f"positions={positions}", "sites=[1,2]"]
    for name, room in (("without", 0), ("with", 100), ("again", 100)):
        simulate(tiny_config(*words, f"activations_mb={room}", "rank.private=2"), name, tmp_path)
        assert bool(list(own_cache.rglob("activations/*/*.safetensors"))) == (name != "without")
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), rel=1e-5)
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("without", "with", "again")]
    assert texts[0] == texts[1] == texts[2]
    # An entry has the same bits whether it is computed or read.
    with_, again = (load_file(tmp_path / name / "shared.safetensors") for name in ("with", "again"))
    assert all(with_[key].equal(again[key]) for key in with_)


def test_an_unwritable_cache_is_noted_and_does_not_stop_the_run(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_cache.mkdir()
    (own_cache / "activations").write_text("a file, so the folder cannot be created")
    assert simulate(tiny_config("rounds=1"), "run", tmp_path).status == "completed"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (note,) = (event["text"] for event in events if event["event"] == "note")
    assert "hidden states are recomputed each time" in note
    assert read_resolved(tmp_path / "run" / "config.toml").activations_mb == 0
