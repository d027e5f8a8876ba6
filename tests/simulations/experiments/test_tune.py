"""`fedperfit tune`: which rates are tried, on which users, and which are chosen."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from simulations.cli.main import app
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import per_user
from simulations.experiments.plan import Planned
from simulations.experiments.shapes import fitted_shapes
from simulations.experiments.tune import tune
from simulations.run.simulate import simulate
from tests.conftest import TINY

pytestmark = pytest.mark.integration


def quiet(_text: str) -> None:
    pass


def pretend(planned: Sequence[Planned], folder: Path, *_: object) -> list[Any]:
    clients = pa.table({"phase": ["train", "personalize"], "steps": [1, 1]})
    files = SimpleNamespace(clients=lambda _columns: clients)
    return [SimpleNamespace(config=each.config, folder=folder / each.name, files=files) for each in planned]


def test_rate_with_a_non_finite_loss_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.experiments.tune.GRID", (1e-3, 1e30))
    monkeypatch.setattr("simulations.experiments.tune.RATES", (1e-3, 1e30))
    tuned = tune(
        "reft-c", None, [*TINY, "rounds=2", "local.epochs=4"], [0], 2, name="tuned", results=tmp_path, log=quiet
    )
    assert tuned.rates == {"local.lr": 1e-3}
    assert tuned.table.value.isna().tolist() == [False, True]


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("mae", -1)])
def test_search_extends_the_grid_and_uses_the_best_rate_of_stage_1(
    metric: str, sign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(planned: Sequence[Run]) -> tuple[str, float, float, int]:
        config = planned[0].config
        off = [math.log10(config.local.lr / 3e-4), math.log10(config.personal.lr / 1e-2)]
        return metric, sign * (1 - sum(each**2 for each in off)), 0.0, 1

    monkeypatch.setattr("simulations.experiments.tune.complete", pretend)
    monkeypatch.setattr("simulations.experiments.tune._score", score)
    (tmp_path / "experiment.toml").write_text("[personal]\nlr = 0.5\n")
    tuned = tune(
        "oppu", tmp_path / "experiment.toml", TINY, [0], 2, name=tmp_path.name, results=tmp_path.parent, log=quiet
    )
    assert tuned.rates == {"local.lr": 3e-4, "personal.lr": 1e-2}
    tried = list(zip(tuned.table.local_lr, tuned.table.personal_lr, strict=True))
    first = [(rate, 3e-3) for rate in (1e-3, 3e-3, 1e-2, 3e-2, 3e-4, 1e-4)]
    # 3e-4 with 3e-3 has been tried before.
    assert tried == [*first, (3e-4, 1e-3), (3e-4, 1e-2), (3e-4, 3e-2)]
    assert tuned.at_the_edge == []


@pytest.mark.parametrize("top", [3e-3, 3e-2])
def test_close_rates_get_more_seeds_which_decide(top: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {1e-3: 0.1, 3e-3: 0.37, 1e-2: 0.4, 3e-2: 0.36, 1e-1: 0.2}

    def score(planned: Sequence[Run]) -> tuple[str, float, float, int]:
        rate = planned[0].config.local.lr
        assert [each.config.seed for each in planned] == [4, 5, 6][: len(planned)]
        value = few[rate] if len(planned) == 1 else 0.5 - abs(math.log10(rate / top))
        return "accuracy", value, 0.05, 8

    monkeypatch.setattr("simulations.experiments.tune.complete", pretend)
    monkeypatch.setattr("simulations.experiments.tune._score", score)
    tuned = tune("lora-c", None, TINY, [4], 2, name=tmp_path.name, results=tmp_path.parent, log=quiet)
    assert tuned.rates == {"local.lr": top}
    # 1e-3 is more than 0.05 below the best; 1e-1 is tried only if its neighbour turns out to be the best.
    more = tuned.table[tuned.table.seeds == 3].local_lr.tolist()
    assert more == ([3e-3, 1e-2, 3e-2] if top == 3e-3 else [3e-3, 1e-2, 3e-2, 1e-1])


@pytest.mark.parametrize("method", ["perfit", "fdlora"])
def test_search_of_stage_2_reuses_stage_1_with_the_result_of_a_whole_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.experiments.tune.GRID", (1e-3, 3e-3))
    monkeypatch.setattr("simulations.experiments.tune.RATES", (1e-3, 3e-3))
    words = [*TINY, "rounds=1", *(["settings.rank=2", "settings.fusion_trials=3"] if method == "fdlora" else [])]
    tuned = tune(method, None, words, [0], 2, name=tmp_path.name, results=tmp_path.parent, log=quiet)
    best = tuned.rates["local.lr"]
    started = Run.read(tmp_path / f"{best:g}-0.001-seed0")
    # FDLoRA's opening trains as stage 2 does.
    assert Path(started.config.start_from).name == (f"{best:g}-0.003-seed0" if method == "perfit" else "")
    whole = simulate(started.config.model_copy(update={"start_from": ""}), "whole", tmp_path)
    assert (whole.metrics, whole.shared_sha256) == (started.record.metrics, started.record.shared_sha256)


@pytest.mark.usefixtures("two_rates")
def test_held_out_users_are_not_target_users(tmp_path: Path) -> None:
    tuned = tune("lora-c", None, [*TINY, "rounds=1"], [0], 2, name="tuned", results=tmp_path, log=quiet)
    columns = ["local_lr", "personal_lr", "seeds", "metric", "value", "standard_error", "users"]
    assert tuned.table.columns.tolist() == columns
    assert tuned.table.local_lr.tolist() == [1e-3, 3e-3]
    assert list(tuned.rates) == ["local.lr"]
    assert tuned.rates["local.lr"] == tuned.table.loc[tuned.table.value.idxmax()].local_lr
    run = Run.read(next((tmp_path / "tuned").glob("*/run.json")).parent)
    assert (run.config.users.reserved, run.config.users.collective, run.config.users.target) == (3, 4, 2)
    assert len(per_user(run)) == 2
    with pytest.raises(InputError, match=r"local\.lr=0\.5: tune searches this rate"):
        tune("lora-c", None, [*TINY, "local.lr=0.5"], [0], 2, name="no", results=tmp_path, log=quiet)
    with pytest.raises(InputError, match="unknown method 'x/perfit-seed0'"):
        CliRunner().invoke(app, ["tune", "x/perfit-seed0", "--results", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(InputError, match="held_out=6"):
        tune("lora-c", None, TINY, [0], 6, name="no", results=tmp_path, log=quiet)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=rag"], "rag trains nothing, so there is no rate to search"),
        (["method=stylevector"], "stylevector trains nothing, so there is no rate to search"),
        (
            ["method=stylevector", "settings.federated=true"],
            r"stylevector takes no step with local\.lr, so there is no rate to search",
        ),
    ],
)
def test_a_method_without_a_rate_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    method, rest = words[0].removeprefix("method="), words[1:]
    with pytest.raises(InputError, match=message):
        tune(method, None, [*TINY, "rounds=1", *rest], [0], 2, name="tuned", results=tmp_path, log=quiet)


def test_every_shape_gets_the_largest_size_that_fits(tmp_path: Path) -> None:
    shapes = fitted_shapes("perfit", None, ["backbone=tiny"], 1000)
    # On tiny (d = 16, four blocks) a site of rank r has 33r numbers; 4 and 6 spread are only 3 sites, 10 and 24 only 4.
    assert [shape.shared for shape in shapes] == [
        33 * 16,
        2 * 33 * 15,
        3 * 33 * 10,
        3 * 33 * 10,
        4 * 33 * 7,
        4 * 33 * 7,
    ]
    assert shapes[1].overrides == ("sites=2 spread", "rank.shared=15")
    lora = fitted_shapes("lora-c", None, ["backbone=tiny"], 1000)
    assert all(0 < shape.shared <= 1000 for shape in lora)
    with pytest.raises(InputError, match="size=10: the smallest shape has 33 numbers"):
        fitted_shapes("perfit", None, ["backbone=tiny"], 10)
    with pytest.raises(InputError, match=r"lora-p: its TOML has no \[search\]"):
        fitted_shapes("lora-p", None, ["backbone=tiny"], 1000)


def test_the_rates_are_searched_for_the_best_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(planned: Sequence[Run]) -> tuple[str, float, float, int]:
        config = planned[0].config
        return "accuracy", float(config.sites == [2, 3]) - abs(math.log10(config.local.lr / 1e-2)), 0.0, 1

    monkeypatch.setattr("simulations.experiments.tune.complete", pretend)
    monkeypatch.setattr("simulations.experiments.tune._score", score)
    (tmp_path / "shapes").mkdir()
    words = [word for word in TINY if not word.startswith(("sites", "rank"))]
    tuned = tune("perfit", None, words, [0], 2, size=500, name=tmp_path.name, results=tmp_path.parent, log=quiet)
    assert tuned.shape[0] == "sites=2 spread"
    assert tuned.rates["local.lr"] == 1e-2
    assert set(tuned.shapes["shape"]) >= {"sites-2-spread-rank.shared-7"}


def test_only_the_rate_of_stage_1_is_searched_if_newcomers_take_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.experiments.tune.GRID", (1e-3, 3e-3))
    monkeypatch.setattr("simulations.experiments.tune.RATES", (1e-3, 3e-3))
    small = ["settings.latent=8", "settings.head=4", "settings.components=1", "rounds=1"]
    tuned = tune("p2p", None, [*TINY, *small], [0], 2, name="tuned", results=tmp_path, log=quiet)
    assert tuned.rates.keys() == {"local.lr"}
    assert (tmp_path / "tuned" / "tune.csv").is_file()
