"""The committed reference results: figures follow from the run records, and the pages show these figures."""

import json
import re
import runpy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from configs.load import read_resolved
from simulations.cli.main import app
from simulations.experiments import compare as comparison_runs
from simulations.experiments.cold_start import experiment as cold_start_files
from simulations.experiments.cold_start.findings import main_rows
from simulations.experiments.cold_start.rows import tabulate
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.write import findings
from simulations.experiments.comparable import Run, check_comparable
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.schema import Comparison
from simulations.experiments.sweep import run as sweep_runs
from simulations.experiments.sweep.against_best import with_tests
from simulations.experiments.sweep.run import cell_of
from simulations.experiments.sweep.schema import Sweep
from tests.test_documents import REPRODUCED, commands, is_on_users_of_ones_own

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[1]
COMPARISONS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/compare.json"))
COLD_STARTS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/cold_start.json"))
SWEEPS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/sweep.json"))
SHOWN = {"sweep.json": "layers-and-ranks.md", "analysis.json": "analysis.md", "ability.json": "ability.md"}
"""The page that has the tables of each kind of experiment."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{path}.{key}")
    else:
        yield path, value


def check(again: dict[str, Any], written: dict[str, Any]) -> None:
    """Compare recomputed figures with the written ones."""
    ours, theirs = dict(leaves(again)), dict(leaves(written))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        if isinstance(value, float):
            # Resampling may depend on the library's version.
            resampled = path.endswith("p_value") or ".interval" in path
            assert ours[path] == pytest.approx(value, rel=1e-6, abs=2e-3 if resampled else 1e-9), path
        else:
            assert ours[path] == value, path


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_comparison_is_reproduced_from_its_runs(folder: Path) -> None:
    report = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    runs = [Run.read(folder / each["folder"], each["method"]) for each in report["runs"]]
    check_comparable(runs)
    again, _ = compare_runs(runs, report["reference"], folder)
    check(again.model_dump(mode="json", by_alias=True), report)


@pytest.mark.parametrize("folder", COLD_STARTS, ids=lambda folder: folder.name)
def test_cold_start_is_reproduced_from_its_runs(folder: Path) -> None:
    rows = pd.read_csv(folder / "cold_start.csv")
    runs = [Run.read(folder / row.folder, row.method) for row in rows.itertuples()]
    made = [tabulate(run, folder, source) for run, source in zip(runs, rows.trained_on, strict=True)]
    again = pd.DataFrame(made).astype(rows.dtypes)
    pd.testing.assert_frame_equal(again, rows, rtol=1e-6)
    report = json.loads((folder / "cold_start.json").read_text(encoding="utf-8"))
    found = findings(again, [runs[place] for place in main_rows(again).index], folder.name)
    check(found.model_dump(mode="json", by_alias=True), report)


def test_there_are_committed_sweeps() -> None:
    assert len(SWEEPS) >= 2


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda folder: folder.name)
def test_sweep_is_reproduced_from_its_runs(folder: Path) -> None:
    found = Sweep.model_validate_json((folder / "sweep.json").read_bytes())
    runs = [[Run.read(folder / place, cell.method) for place in cell.folders] for cell in found.cells]
    cells = [cell_of(cell.method, cell.values, own, folder) for cell, own in zip(found.cells, runs, strict=True)]
    for again, written in zip(with_tests(cells, runs, found.lower_is_better), found.cells, strict=True):
        check(again.model_dump(mode="json"), written.model_dump(mode="json"))


@pytest.mark.parametrize(("file", "page"), SHOWN.items(), ids=SHOWN)
def test_page_shows_every_table_of_a_kind(file: str, page: str) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "reference_tables.py"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    folders = [path.parent for path in (ROOT / "results" / "reference").glob(f"*/{file}")]
    assert folders
    for folder in folders:
        for table in script["read"](folder):
            assert script["markdown"](table) in text, folder.name


def test_newcomers_did_not_train_the_committed_shift_they_start_from() -> None:
    origins = 0
    for place in (path.parent for path in (ROOT / "results" / "reference").rglob("config.toml")):
        config = read_resolved(place / "config.toml")
        if config.start_from:
            origin = ROOT / config.start_from
            theirs = read_resolved(origin / "config.toml")
            ids = [pd.read_parquet(folder / "users.parquet").user_id.tolist() for folder in (place, origin)]
            trained = set(ids[1][: theirs.users.collective]) if config.task == theirs.task else set()
            assert not trained & set(ids[0][config.users.collective :]), place
            origins += 1
    assert origins > 20


def committed_comparison(runs: Sequence[Run], _reference: str, folder: Path, *_: object) -> Comparison:
    check_comparable(runs)
    return Comparison.model_validate_json((folder / "compare.json").read_bytes())


def committed_cold_start(_rows: pd.DataFrame, _runs: Sequence[Run], folder: Path) -> ColdStart:
    return ColdStart.model_validate_json((folder / "cold_start.json").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("page", REPRODUCED)
def test_commands_on_a_page_find_every_committed_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Guards against an added record being reused in place of one with other tensors.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "results" / "reference", tmp_path / "results" / "reference")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison_runs, "simulate", None)
    # The figures are computed again in other tests.
    monkeypatch.setattr(comparison_runs, "write_comparison", committed_comparison)
    monkeypatch.setattr(cold_start_files, "write_cold_start", committed_cold_start)
    monkeypatch.setattr(sweep_runs, "draw", lambda *_: None)
    selected = [words for _, *words in commands(ROOT / "docs" / f"{page}.md") if "results/reference" in words]
    assert selected
    for words in selected:
        if not is_on_users_of_ones_own(words):
            assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(("page", "folders"), [("reference.md", COMPARISONS), ("cold-start.md", COLD_STARTS)])
def test_page_shows_tables_of_every_folder_and_no_others(page: str, folders: list[Path]) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "reference_tables.py"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.split(r"(?=^\*\*)", text, flags=re.MULTILINE)
    shown = [found[0] for part in tables if (found := re.match(r"\*\*.+\*\*\n\n(\|.+\n)+\n.+\n", part))]
    assert len(shown) == len(re.findall(r"^\| [-:]+", text, re.MULTILINE)), "a table lacks its title or caption"
    for folder in folders:
        own = {script["markdown"](table) for table in script["read"](folder)}
        assert own.intersection(shown), folder.name
        shown = [table for table in shown if table not in own]
    assert not shown
