"""The committed reference: its figures are what its run records say, and the page shows these figures."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.comparable import Run, check_comparable
from simulations.comparison import compare_runs

ROOT = Path(__file__).parents[1]
COMPARISONS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/compare.json"))
COLD_STARTS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/cold_start.json"))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{path}.{key}")
    else:
        yield path, value


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_a_comparison_is_worked_out_from_its_runs(folder: Path) -> None:
    report = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    runs = [Run.read(folder / each["folder"], each["method"]) for each in report["runs"]]
    check_comparable(runs)
    again, _ = compare_runs(runs, report["reference"])
    del report["name"], report["runs"], again["runs"]
    ours, theirs = dict(leaves(again)), dict(leaves(report))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        if isinstance(value, float):
            # Resampling may go with the library's version.
            resampled = path.endswith("p_value") or ".interval" in path
            assert ours[path] == pytest.approx(value, rel=1e-6, abs=2e-3 if resampled else 1e-9), path
        else:
            assert ours[path] == value, path


@pytest.mark.parametrize("folder", [*COMPARISONS, *COLD_STARTS], ids=lambda folder: folder.name)
def test_the_page_shows_the_tables(folder: Path) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "reference_tables.py"))
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for table in script["read"](folder):
        assert script["markdown"](table) in page
