"""What a report says first follows from the committed comparison, with its uncertainty."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulations.experiments.comparison.schema import Comparison
from simulations.report.first_screen import sentences, summary, title_of
from simulations.report.gather import ReportData, gather_report

REFERENCE = Path(__file__).parents[3] / "results" / "reference"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / "movie_tagging" / "compare.json").read_text())
    return found


def opened(content: dict[str, Any]) -> ReportData:
    return ReportData("x", [], [Comparison.model_validate(content)])


def test_the_title_says_what_was_compared(content: dict[str, Any]) -> None:
    names = [row["method"] for row in content["methods"]]
    assert title_of(opened(content)) == (
        f"{', '.join(names[:-1])} and {names[-1]} on movie tagging: accuracy against bytes"
    )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_methods_are_named_with_their_quality_its_spread_and_their_bytes(count: int, content: dict[str, Any]) -> None:
    methods = content["methods"][:count]
    first, *_ = sentences(opened(content | {"methods": methods}))
    named = methods if count <= 3 else [row for row in methods if row["method"] in ("perfit", content["best"])]
    assert first.count(" reaches ") == len(named)
    assert (f"the best, {content['best']}, reaches" in first) == (count > 3)
    first = first.replace(",", "")
    for row in named:
        quality, sent = row["quality"], row["bytes"]["in_all"]
        shown = f"{sent / 1e6:.2f} MB" if sent >= 1e6 else f"{sent / 1e3:.2f} kB"
        assert f"{row['method']} reaches {quality['mean']:.3f} ± {quality['std']:.3f} with {shown}" in first


def test_what_is_noise_is_called_noise_and_the_rest_is_not(content: dict[str, Any]) -> None:
    _, *tests = sentences(opened(content))
    text = " ".join(tests)
    noise, _, clear = text.partition("Different from perfit by more than noise: ")
    for row in content["methods"][1:]:
        shown = f"{row['method']} by {row['against']['difference']:+.3f}"
        assert shown in (noise if row["against"]["within_noise"] else clear)
    p = sorted(row["against"]["p_adjusted"] for row in content["methods"][1:] if row["against"]["within_noise"])
    assert f"(p = {p[0]:.2f} to {p[-1]:.2f})" in noise
    assert f"over {len(content['seeds'])} seeds and {content['users']['target']} users" in noise


def test_with_one_seed_the_sentence_says_so(content: dict[str, Any]) -> None:
    text = " ".join(sentences(opened(content | {"seeds": [0]})))
    assert "over users, one seed" in text


def test_the_table_has_a_row_for_each_method_and_explains_its_columns(content: dict[str, Any]) -> None:
    table = summary(Comparison.model_validate(content))
    assert [row[0] for row in table["rows"]] == [row["method"] for row in content["methods"]]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert all(text for _, text in table["columns"][1:])


def test_runs_without_a_comparison_get_a_sentence_each() -> None:
    gathered = gather_report([REFERENCE / "movie_tagging" / f"{method}-seed0" for method in ("perfit", "oppu")])
    lines = sentences(gathered)
    assert [line.partition(":")[0] for line in lines] == ["perfit", "oppu"]
    record = gathered.runs[0].record
    assert (
        f"→ {record.metrics['accuracy']:.3f} personalised, for {record.bytes.total / 1e6:.2f} MB with evaluation."
        in lines[0]
    )
