"""Lists of run records: found, filtered, sorted, shown, followed."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from configs.files import append_line
from fl_server.record.folder import RunFolder
from fl_server.record.schema import read_run, write_run
from simulations.cli.main import app
from simulations.run.catalogue import find_run, find_runs
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    simulate(tiny_config("rounds=1"), "first", folder)
    simulate(tiny_config("rounds=1", "method=reft-c", "task=product_rating"), "inside", folder / "comparison")
    record = simulate(tiny_config("rounds=1", "seed=1"), "broken", folder)
    record.status, record.error = "failed", "round 1: 1 of 3 clients failed"
    write_run(folder / "broken", record)
    shutil.copytree(folder / "first", folder / "kept" / "elsewhere" / "deep")
    (folder / "other").mkdir()
    (folder / "other" / "run.json").write_text("{}")
    return folder


def listed(results: Path, *words: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(app, ["runs", "--json", "--results", str(results), *words], catch_exceptions=False)
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_records_in_subfolders_are_found_and_invalid_ones_reported(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["broken", "comparison/inside", "first", "kept/elsewhere/deep"]
    assert [run.name for run in find_runs(str(results))] == names
    app(["runs", "--results", str(results)], standalone_mode=False)
    assert "skipped: " + str(results / "other" / "run.json") in capsys.readouterr().err
    with pytest.raises(InputError, match=r"other/run.json: not a run record"):
        find_run(results, "other")
    with pytest.raises(InputError, match=r"results=.*none: no such folder"):
        find_runs(results / "none")
    rows = {row["name"]: row for row in listed(results)}
    record = read_run(results / "first")
    assert rows["first"]["quality"] == record.metrics["accuracy"]
    assert rows["first"]["bytes"] == record.bytes.total
    assert (rows["comparison/inside"]["metric"], rows["comparison/inside"]["method"]) == ("mae", "reft-c")
    # A run that did not complete is never shown as a result.
    assert (rows["broken"]["quality"], rows["broken"]["bytes"]) == (None, None)


def test_one_damaged_table_does_not_hide_the_other_runs(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "first", tmp_path / "whole")
    shutil.copytree(results / "first", tmp_path / "torn")
    table = tmp_path / "torn" / "clients.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    assert {row["name"] for row in listed(tmp_path)} == {"torn", "whole"}
    with pytest.raises(InputError, match=r"torn: its table 'clients' is not readable"):
        RunFolder(tmp_path / "torn").clients()
    (tmp_path / "torn" / "users.parquet").unlink()
    with pytest.raises(InputError, match=r"users\.parquet: not readable"):
        RunFolder(tmp_path / "torn").users()


def test_the_list_is_filtered_and_sorted(results: Path) -> None:
    assert [row["name"] for row in listed(results, "--status", "failed")] == ["broken"]
    of_perfit = listed(results, "--task", "movie_tagging", "--method", "perfit", "--sort", "name")
    assert [row["name"] for row in of_perfit] == ["broken", "first", "kept/elsewhere/deep"]
    assert listed(results, "--status", "running") == []
    assert [row["name"] for row in listed(results, "--sort", "quality")][-1] == "broken"
    assert listed(results)[0]["name"] == "broken"
    with pytest.raises(InputError, match=r"method=perfitt: no such runs; did you mean 'perfit'"):
        listed(results, "--method", "perfitt")


def test_one_run_is_shown(results: Path) -> None:
    words = ["runs", "show", "--results", str(results)]
    shown = CliRunner().invoke(app, [*words, "comparison/inside"], catch_exceptions=False).output
    assert "collective, after stage 1" in shown
    assert "completed" in shown
    broken = CliRunner().invoke(app, [*words, "broken"], catch_exceptions=False).output
    assert "round 1: 1 of 3" in broken.replace("\n", " ")
    content = json.loads(CliRunner().invoke(app, [*words, "first", "--json"], catch_exceptions=False).output)
    assert content["metrics"] == read_run(results / "first").metrics
    with pytest.raises(InputError, match=r"firs: no run record of that name in .*; did you mean 'first'\?"):
        find_run(results, "firs")


def test_a_run_is_followed_to_its_end(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results / "going"
    record = simulate(tiny_config("rounds=1"), "going", results)
    record.status = "running"
    write_run(folder, record)

    def finish() -> None:
        append_line(folder / "events.jsonl", {"event": "note", "text": "nearly there"})
        record.status = "completed"
        write_run(folder, record)

    timer = threading.Timer(1.0, finish)
    follow = ["runs", "follow", "going", "--results", str(results)]
    with RunFolder(folder).lock():
        timer.start()
        done = CliRunner().invoke(app, follow, catch_exceptions=False)
    timer.join()
    assert "round 1 of 1" in done.output
    assert "nearly there" in done.output
    assert done.output.strip().endswith("going: completed")


def test_a_killed_run_is_shown_as_interrupted_and_not_followed(results: Path) -> None:
    folder = results / "killed"
    record = simulate(tiny_config("rounds=1"), "killed", results)
    record.status = "running"
    write_run(folder, record)
    (folder / ".users").symlink_to(results / "gone")
    (results / ".killed.lock").touch()
    for words in (["runs", "follow"], ["runs", "show"]):
        done = CliRunner().invoke(app, [*words, "killed", "--results", str(results)], catch_exceptions=False)
        assert "interrupted" in done.output
        assert "`fedperfit simulate --resume killed` resumes it" in done.output
    assert [row["name"] for row in listed(results, "--status", "interrupted")] == ["killed"]


def test_recorded_errors_are_printed_as_text_not_markup(results: Path) -> None:
    folder = results / "marked"
    record = simulate(tiny_config("rounds=1"), "marked", results)
    record.status, record.error = "failed", "RuntimeError: [/INST] [bold]loud[/bold]"
    write_run(folder, record)
    shown = CliRunner().invoke(app, ["runs", "show", "marked", "--results", str(results)], catch_exceptions=False)
    assert "[/INST] [bold]loud[/bold]" in shown.output
