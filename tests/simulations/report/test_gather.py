"""Reports of records with similar names, interrupted runs and damaged files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from simulations.report.figures import cost_curves, loss_by_round, per_user
from simulations.report.gather import gather_report
from simulations.report.page import render, write_page
from simulations.report.time_figures import partitions
from simulations.run.catalogue import find_folder
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    simulate(tiny_config("rounds=2"), "single", folder)
    return folder / "single"


@pytest.fixture
def copy(single: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(single, tmp_path / "copy"))


def change(record: Path, **values: object) -> None:
    content = json.loads((record / "run.json").read_text())
    (record / "run.json").write_text(json.dumps(content | values))


def test_partition_bars_show_their_seconds(single: Path) -> None:
    (run,) = gather_report([single]).runs
    figure = partitions(run)
    assert figure is not None
    bar = next(trace for trace in figure.data if trace.name == "train")
    trained = run.clients[run.clients.phase == "train"]
    assert sorted(bar.customdata[:, 2]) == sorted(trained.wall_s)
    assert "%{customdata[2]:.2f} s from %{base:.1f} s" in bar.hovertemplate


def test_overlapping_tasks_of_one_partition_have_lanes(single: Path) -> None:
    (run,) = gather_report([single]).runs
    # Two slots with one name, 0 to 2 and 1 to 4; a third task starts after the first has ended.
    ends, seconds = [2.0, 4.0, 3.5], [2.0, 3.0, 1.5]
    tasks = run.clients.iloc[:3].assign(partition="cpu", phase="train", ended_at=ends, wall_s=seconds)
    figure = partitions(replace(run, clients=tasks))
    assert figure is not None
    bar = next(trace for trace in figure.data if trace.name == "train")
    assert dict(zip(bar.customdata[:, 2], bar.y, strict=True)) == {2.0: "cpu", 3.0: "cpu (2)", 1.5: "cpu"}


def test_users_at_one_point_share_a_marker(single: Path) -> None:
    (run,) = gather_report([single]).runs
    chosen = run.clients.phase == "personalize"
    run.clients.loc[chosen, ["collective.accuracy", "personalised.accuracy"]] = 0.5
    marks = per_user([run]).data[0]
    assert (list(marks.x), list(marks.y)) == ([0.5], [0.5])
    assert len(marks.text[0].split("<br>")) == chosen.sum()


def test_labels_are_as_short_as_possible_but_unique(single: Path, tmp_path: Path) -> None:
    places = [tmp_path / place / "mine" / "run" for place in ("here", "there")] + [tmp_path / "other"]
    for place in places:
        shutil.copytree(single, place)
    gathered = gather_report(places)
    assert [run.label for run in gathered.runs] == ["here/mine/run", "there/mine/run", "other"]
    _, figures = render(gathered)
    assert list(figures["bytes"].data[0].x) == ["here/mine/run", "there/mine/run", "other"]
    assert {name for name in figures if name.startswith("partitions")} == {
        f"partitions-{run.label}" for run in gathered.runs
    }


def test_method_that_sends_nothing_has_no_curves(cache: Path, tmp_path: Path) -> None:
    simulate(tiny_config("method=lora-p"), "silent", tmp_path)
    gathered = gather_report([tmp_path / "silent"])
    assert cost_curves(gathered.runs) is None
    assert loss_by_round(gathered.runs) is None
    page, figures = render(gathered)
    assert "quality by stage" in page
    record = gathered.runs[0].record
    points = (record.metrics_base, record.metrics_collective, record.metrics)
    assert [bars.y[0] for bars in figures["movie_tagging-stages"].data] == [each["accuracy"] for each in points]


def test_a_run_evaluated_at_its_end_only_opens_with_bars_and_one_evaluated_midway_with_a_curve(
    cache: Path, tmp_path: Path
) -> None:
    for name, every in (("end", 0), ("midway", 1)):
        simulate(tiny_config(f"evaluate.every={every}", "evaluate.point=personalised"), name, tmp_path)
        page, figures = render(gather_report([tmp_path / name]))
        assert ("movie_tagging-stages" in figures) == (name == "end")
        assert ("movie_tagging-cost-curves" in figures) == (name == "midway")
        assert ("communication cost curves" in page) == (name == "midway")


def test_bytes_by_phase_are_all_messages(cache: Path, tmp_path: Path) -> None:
    record = simulate(tiny_config(), "run", tmp_path)
    _, figures = render(gather_report([tmp_path / "run"]))
    bars = {bar.name: bar.y[0] for bar in figures["bytes-by-phase"].data}
    assert list(bars) == ["rollcall", "evaluate", "train", "personalize"]
    assert sum(bars.values()) == pytest.approx(record.bytes.total / 1e6)


def test_failed_run_shows_its_error_and_no_results(copy: Path) -> None:
    change(copy, status="failed", error="round 3: 1 of 3 clients failed")
    assert gather_report([copy]).predictions == []
    page = write_page([str(copy)], str(copy / "page.html")).read_text()
    assert "failed: round 3: 1 of 3 clients failed" in page
    assert "No run has completed." in page


def test_killed_run_shows_what_it_has_recorded(copy: Path) -> None:
    change(copy, status="running", metrics={}, metrics_base={}, metrics_collective={}, per_user={})
    for name in ("rounds", "clients", "ledger"):
        (copy / f".{name}").mkdir()
        (copy / f"{name}.parquet").rename(copy / f".{name}" / "000000.parquet")
    # Left by a failure before the run was resumed.
    pq.write_table(pq.read_table(copy / ".rounds" / "000000.parquet").slice(0, 1), copy / "rounds.parquet")
    (run,) = gather_report([copy]).runs
    assert run.status == "interrupted"
    assert list(run.rounds["round"]) == [1, 2]
    shutil.rmtree(copy / ".rounds")
    (copy / ".rounds").mkdir()
    (run,) = gather_report([copy]).runs
    assert run.rounds.empty
    assert "interrupted" in render(gather_report([copy]))[0]


def without(column: str) -> Callable[[Path], None]:
    return lambda path: pd.read_parquet(path).drop(columns=column).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("clients.parquet", Path.unlink, "its table .clients. is not readable"),
        ("clients.parquet", lambda path: path.write_bytes(b"nonsense"), "its table .* is not readable"),
        ("ledger.parquet", lambda path: path.write_bytes(b"PAR1"), "its table .* is not readable"),
        ("ledger.parquet", without("phase"), "column 'phase' is missing"),
        ("users.parquet", without("user_id"), "column 'user_id' is missing"),
        ("run.json", lambda path: change(path.parent, metrics_base={}), "expected the same metrics"),
    ],
)
def test_damaged_record_is_named(name: str, damage: Callable[[Path], None], message: str, copy: Path) -> None:
    damage(copy / name)
    with pytest.raises(InputError, match=rf"copy.*: {message}"):
        write_page([copy], copy / "page.html")


def test_comparison_without_its_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text('{"schema": 5, "name": "half"}')
    with pytest.raises(InputError, match=r"compare.json: 'task' is missing"):
        gather_report([tmp_path])


def test_malformed_lines_are_skipped(single: Path, copy: Path) -> None:
    with (copy / "predictions.jsonl").open("ab") as file:
        file.write(b'[1, 2]\n{"half\n{"user": 6}\n')
        file.write(b'{"user": 6, "stage": "base", "query": "q", "gold": "\xff", "prediction": NaN}\n')
    rows = gather_report([copy]).predictions
    assert len(rows) == 1 + len(gather_report([single]).predictions)
    assert (rows[-1]["gold"], rows[-1]["prediction"]) == ("\ufffd", "NaN")
    # Half a surrogate pair, which a traceback may contain.
    error = {"round": 1, "phase": "train", "user": 0, "traceback": "\ud83d"}
    (copy / "errors.jsonl").write_text(json.dumps({"round": 1}) + "\n" + json.dumps(error) + "\n")
    assert "attempt 1 failed" in write_page([copy], copy / "page.html").read_text()


def test_runs_have_equal_shares_of_the_predictions(single: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.report.gather.PREDICTIONS", 4)
    whole = sum(len((run / "predictions.jsonl").read_bytes().splitlines()) for run in (single, copy))
    gathered = gather_report([single, copy])
    assert [row["run"] for row in gathered.predictions] == ["single"] * 2 + ["copy"] * 2
    assert gathered.predictions_cut == whole - 4


def test_other_folder_of_the_same_name_does_not_hide_a_record(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "single").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_folder(single.parent, "single") == single
    assert find_folder(tmp_path, str(single)) == single
    with pytest.raises(InputError, match="did you mean 'single'"):
        find_folder(single.parent, "singl")
