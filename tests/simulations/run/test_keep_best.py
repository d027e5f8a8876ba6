"""Held-out collective users judge the rounds of stage 1, and `keep = "best"` goes back to the best of them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fl_server.best_round import BestRound
from fl_server.stage_1 import Stage1
from fl_server.training_round import TrainingRound
from simulations.cli.main import app
from simulations.display.tables import quality_table
from simulations.run.simulate import simulate
from strategies.method import Tensors
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration
JUDGED = ("users.held_out=1", "rounds=4", "evaluate.every=1")


def notes(folder: Path) -> list[str]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event["text"] for event in events if event["event"] == "note"]


def test_held_out_users_judge_and_never_train(tmp_path: Path) -> None:
    config = tiny_config(*JUDGED, "users.held_out=2")
    simulate(config, "run", tmp_path)
    clients = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    last = config.users.collective
    judges = {last - 2, last - 1}
    assert not judges & {row["user"] for row in clients if row["phase"] == "train"}
    judged = [(row["round"], row["user"]) for row in clients if row["phase"] == "evaluate" and row["user"] in judges]
    assert judged == [(number, user) for number in range(5) for user in sorted(judges)]
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    assert all("held_out.accuracy" in dict(row["metrics"]) for row in rounds)


def test_an_opening_is_judged_neither_as_the_start_nor_as_a_round(tmp_path: Path) -> None:
    lora = ("method=fdlora", "settings.rank=2", "settings.alpha=4")
    simulate(tiny_config(*lora, *JUDGED, "keep=best"), "run", tmp_path)
    clients = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    judged = [row["round"] for row in clients if row["phase"] == "evaluate" and row["user"] == 5]
    assert judged == [0, 1, 2, 3, 4]


def judged(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> dict[int, Tensors]:
    """Let the held-out users give these scores before stage 1 and after each round; return the states they judged."""
    consider, states = BestRound.consider, dict[int, Tensors]()

    def scripted(self: BestRound, number: int, _scores: object, state: Tensors, initial: bool = False) -> None:
        states[number] = state
        consider(self, number, {"accuracy": scores[number]}, state, initial)

    monkeypatch.setattr(BestRound, "consider", scripted)
    return states


@pytest.mark.parametrize(
    ("scores", "best", "said"),
    [
        ([0.5, 0.4, 0.3, 0.5, 0.2], 0, "the initial tensors: no round was better (0.500 on held-out users)"),
        ([0.1, 0.2, 0.6, 0.5, 0.6], 2, "round 2 (0.600 on held-out users)"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 4, "round 4 (0.500 on held-out users)"),
    ],
)
@pytest.mark.parametrize("wire", [(), ("wire.up=int8", "wire.down=ternary 0.1")])
def test_stage_1_ends_with_the_best_round(
    scores: list[float], best: int, said: str, wire: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = judged(monkeypatch, scores)
    record = simulate(tiny_config(*JUDGED, "keep=best", *wire), "run", tmp_path)
    assert [text for text in notes(tmp_path / "run") if text.startswith("keep=")] == [f"keep='best': {said}"]
    kept = load_file(tmp_path / "run" / "shared.safetensors")
    if best < 4 or not wire:  # else newcomers have what the codec has sent of it
        assert all(torch.allclose(value, states[best][name], atol=1e-5) for name, value in kept.items())
    if not best:
        assert record.metrics_collective == record.metrics_base


def test_a_stage_1_whose_last_round_is_abandoned_is_judged_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, aggregate = judged(monkeypatch, [0.1, 0.0, 0.0, 0.6]), Stage1._aggregate

    def abandoned(self: Stage1, this: TrainingRound) -> None:
        aggregate(self, this) if this.number < 3 else None

    monkeypatch.setattr(Stage1, "_aggregate", abandoned)
    simulate(tiny_config("users.held_out=1", "rounds=3", "keep=best"), "run", tmp_path)
    assert states.keys() == {0, 3}
    assert notes(tmp_path / "run")[-1] == "keep='best': round 3 (0.600 on held-out users)"


def test_a_stage_1_that_harmed_is_said(tmp_path: Path) -> None:
    record = simulate(tiny_config(), "run", tmp_path)
    for better, said in ((1.0, True), (-1.0, False)):
        changed = record.model_copy(update={"metrics_base": dict.fromkeys(record.metrics_base, better)})
        assert ("stage 1 made answers worse" in str(quality_table(changed).caption)) == said


@pytest.mark.parametrize("metric", ["accuracy", "mae"])
def test_the_best_round_is_the_first_of_the_best(metric: str) -> None:
    best = BestRound({})
    sign = -1 if metric == "mae" else 1
    for number, score in enumerate([0.2, 0.5, 0.5, 0.1]):
        best.consider(number, {metric: sign * score, "f1": 9.0 * number}, {"shared_x": torch.tensor([float(number)])})
    assert (best.round, best.score) == (1, sign * 0.5)
    again = BestRound(best.saved())
    assert (again.round, again.score, float(again.state["shared_x"])) == (1, sign * 0.5, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep=best"], "keep='best' needs users.held_out"),
        (["users.held_out=5"], "without users.held_out=5"),
        (["keep=first", "users.held_out=1"], "keep"),
    ],
)
def test_bad_input_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["simulate", *TINY, *words, "--results", str(tmp_path)])
    assert message in str(done.exception)


def test_a_stage_1_of_an_opening_alone_goes_back_before_it() -> None:
    best = BestRound({})
    best.consider(0, {"accuracy": 0.5}, {"shared_x": torch.zeros(1)}, initial=True)
    best.consider(0, {"accuracy": 0.4}, {"shared_x": torch.ones(1)})
    again = BestRound(best.saved())
    assert (again.is_initial, again.round, again.state["shared_x"].item()) == (True, 0, 0.0)
    best.consider(0, {"accuracy": 0.6}, {"shared_x": torch.ones(1)})
    assert not BestRound(best.saved()).is_initial
