"""A sweep's runs are ordinary records: named after their values, reused, resumed, drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from simulations.cli.main import app
from simulations.display.tables import rows_of
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import per_user
from simulations.experiments.sweep import run as sweep_run
from simulations.experiments.sweep.run import sweep
from simulations.experiments.sweep.spec import SweepSpec
from simulations.experiments.sweep.tables import sweep_table
from simulations.report.gather import gather_report
from simulations.report.page import render
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration
BOTH = SweepSpec({"rank.shared": ["1", "4"], "personal.epochs": ["1", "2"]}, ["perfit"], [0])
ONE = SweepSpec({"rank.shared": ["1", "4"]}, ["perfit", "reft-c"], [0, 1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    sweep(BOTH, None, [*TINY, "rounds=1"], "both", folder, lambda _text: None)
    sweep(ONE, None, [*TINY, "rounds=1"], "one", folder, lambda _text: None)
    return folder


def test_figures_are_those_of_the_records(results: Path) -> None:
    found = json.loads((results / "both" / "sweep.json").read_text())
    assert found["keys"] == ["rank.shared", "personal.epochs"]
    assert [cell["values"] for cell in found["cells"]] == [["1", "1"], ["1", "2"], ["4", "1"], ["4", "2"]]
    for cell in found["cells"]:
        record = RunFolder(results / "both" / cell["folders"][0]).record
        assert cell["quality"]["mean"] == record.metrics["accuracy"]
        assert cell["quality_collective"]["mean"] == record.metrics_collective["accuracy"]
        config = RunFolder(results / "both" / cell["folders"][0]).config
        assert [str(config.rank.shared), str(config.personal.epochs)] == cell["values"]
    # Two sites of d = 16: rank 1 has 2·16 + 1 numbers.
    assert [cell["shared"] for cell in found["cells"]] == [66, 66, 264, 264]
    assert {path.suffix for path in (results / "both").glob("sweep.*")} == {".json", ".png", ".svg", ".pdf"}


def test_several_seeds_and_methods_share_a_cell_and_a_table(results: Path) -> None:
    found = sweep(ONE, None, [*TINY, "rounds=1"], "one", results, lambda _text: None)
    assert [(cell.method, cell.values, len(cell.quality.per_seed)) for cell in found.cells] == [
        ("perfit", ["1"], 2),
        ("reft-c", ["1"], 2),
        ("perfit", ["4"], 2),
        ("reft-c", ["4"], 2),
    ]
    table = sweep_table(found)
    assert [str(column.header) for column in table.columns][:3] == ["rank.shared", "method", "accuracy"]
    assert len(rows_of(table)) == 4


def test_every_cell_is_tested_against_the_best_one_user_by_user(results: Path) -> None:
    found = sweep(BOTH, None, [*TINY, "rounds=1"], "both", results, lambda _text: None)
    users = [per_user(Run.read(results / "both" / cell.folders[0])) for cell in found.cells]
    best = max(range(4), key=lambda place: found.cells[place].quality.mean)
    for cell, own in zip(found.cells, users, strict=True):
        if cell is found.cells[best]:
            assert cell.against_best is None
        else:
            assert cell.against_best is not None
            differences = [own[user] - users[best][user] for user in own]
            assert cell.against_best.difference == pytest.approx(sum(differences) / len(differences))
            assert cell.against_best.users == 3
            assert cell.against_best.p_adjusted >= cell.against_best.p_value
    assert [row[4] for row in rows_of(sweep_table(found))].count("–") == 1


def test_cells_with_other_users_are_not_tested(tmp_path: Path) -> None:
    spec = SweepSpec({"users.synthetic.deviation": ["0.5", "2"]}, ["perfit"], [0])
    found = sweep(spec, None, [*TINY, "rounds=1"], "users", tmp_path, lambda _text: None)
    assert [cell.against_best for cell in found.cells] == [None, None]
    assert "p" not in [str(column.header) for column in sweep_table(found).columns]


def test_epsilon_is_tabulated_where_there_is_noise(tmp_path: Path) -> None:
    noise = SweepSpec({"privacy.noise_multiplier": ["0", "1"]}, ["perfit"], [0])
    found = sweep(noise, None, [*TINY, "rounds=1", "privacy.kind=central"], "noise", tmp_path, lambda _text: None)
    spent = RunFolder(tmp_path / "noise" / found.cells[1].folders[0]).record.privacy
    assert spent is not None
    assert [cell.epsilon for cell in found.cells] == [None, spent.epsilon]
    assert [row[5] for row in rows_of(sweep_table(found))] == ["–", f"{spent.epsilon:.3g}"]


def test_a_second_time_nothing_runs_and_the_figures_are_the_same(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (results / "both" / "sweep.json").read_bytes()
    monkeypatch.setattr("simulations.experiments.compare.simulate", None)
    sweep(BOTH, None, [*TINY, "rounds=1"], "both", results, lambda _text: None)
    assert (results / "both" / "sweep.json").read_bytes() == before


def test_an_interrupted_sweep_keeps_its_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "rounds=1"]
    genuine, begun = sweep_run.complete, []

    def stopped(planned: list[Any], *rest: Any) -> list[Any]:
        begun.append(len(planned))
        genuine(planned[:1], *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "complete", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep(BOTH, None, words, "both", tmp_path, lambda _text: None)
    lines: list[str] = []
    sweep(BOTH, None, words, "both", tmp_path, lines.append)
    assert begun == [4]
    assert [("reused" in line) for line in lines[1:]] == [True, False, False, False]


def test_the_report_opens_with_the_sweeps_figure(results: Path) -> None:
    page, figures = render(gather_report([results / "both"]))
    assert "perfit: accuracy by rank.shared and personal.epochs" in page
    assert "of 4 combinations, 0 of 3 others can be told from the best" in page
    (heat,) = figures["both-sweep-perfit"].data
    assert [list(map(str, heat.y)), list(map(str, heat.x))] == [["1", "1", "4", "4"], ["1", "2", "1", "2"]]
    _, figures = render(gather_report([results / "one"]))
    assert [line.name for line in figures["one-sweep"].data] == [
        *("perfit, personalised", "perfit, collective", "reft-c, personalised", "reft-c, collective")
    ]


def test_a_mistake_at_one_point_stops_the_sweep_before_any_run(tmp_path: Path) -> None:
    spec = SweepSpec({"sites": ["[1]", "[9]"]}, ["perfit"], [0])
    with pytest.raises(InputError, match=r"sites=\[9\]: perfit: sites=\[9\]: the backbone has blocks 0 to 3"):
        sweep(spec, None, list(TINY), "x", tmp_path, lambda _text: None)
    kinds = SweepSpec({"task": ["movie_tagging", "product_rating"]}, ["perfit"], [0])
    with pytest.raises(InputError, match="answers of different kinds"):
        sweep(kinds, None, list(TINY), "x", tmp_path, lambda _text: None)
    assert not list(tmp_path.rglob("run.json"))


def test_without_methods_the_command_takes_the_configs_with_its_preset(tmp_path: Path) -> None:
    words = ["sweep", *TINY, "rounds=1", "rank.shared=1,4", "--results", str(tmp_path)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert {cell["method"] for cell in found["cells"]} == {"perfit"}
    config = RunFolder(tmp_path / "sweep" / found["cells"][0]["folders"][0]).config
    assert config.personal.lr == tiny_config().personal.lr


def test_another_experiments_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "compare.json").write_text("{}")
    with pytest.raises(InputError, match="is a comparison; choose another name"):
        sweep(BOTH, None, list(TINY), "x", tmp_path, lambda _text: None)
