"""Analysis of two synthetic methods, `cheap` and `dear` (which has an opening), against figures computed by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from scipy import stats

from fl_server.record.schema import BytesPart, ParamsPart, RunRecord, UsersPart
from simulations.display.tables import rows_of
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.curves import curve
from simulations.experiments.comparison.plots import draw_curves
from simulations.experiments.comparison.schema import BytesToReach, Comparison
from simulations.experiments.comparison.significance import paired_test
from simulations.experiments.comparison.tables import bytes_reached, comparison_tables
from tests.conftest import tiny_config

_METRICS = pa.map_(pa.string(), pa.float64())
PERSONS = ["ann", "ben"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    fields = [
        pa.field(key, _METRICS) if key == "metrics" else pa.field(key, pa.array([value]).type)
        for key, value in rows[0].items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)


def message(phase: str, number: int, direction: str, size: int) -> dict[str, Any]:
    user = 4 if phase in ("evaluate", "personalize") else 0
    return {"phase": phase, "round": number, "user": user, "direction": direction, "message_bytes": size}


def made_up(
    folder: Path, method: str, metric: str, opening: int, each_way: int, values: list[float], users: list[float]
) -> Run:
    """A run of two rounds, evaluated after both, whose two target users download `each_way` bytes together."""
    folder.mkdir()
    write(
        folder / "ledger.parquet",
        [
            message("roll_call", 0, "up", 7),
            message("train", 0, "up", opening),
            *(message("train", number, way, each_way) for number in (1, 2) for way in ("up", "down")),
            message("evaluate", 1, "down", each_way),
            message("evaluate", 1, "up", 7),
            message("evaluate", 1, "down", 5) | {"user": 3},  # held out, to choose a round
            message("personalize", 2, "down", each_way),
            message("personalize", 2, "up", 7),
        ],
    )
    seen = {f"personalised.{metric}": values[0], f"collective.{metric}": 0.1}
    write(folder / "rounds.parquet", [{"round": 1, "metrics": list(seen.items())}, {"round": 2, "metrics": []}])
    write(
        folder / "users.parquet", [{"partition": 4 + place, "user_id": person} for place, person in enumerate(PERSONS)]
    )
    tasks = [
        {"phase": "train", "round": 0, "user": 0, "wall_s": 8.0, "metrics": []},
        {"phase": "train", "round": 1, "user": 0, "wall_s": 3.0, "metrics": []},
        *(
            {"phase": "evaluate", "round": 1, "user": 4 + place, "wall_s": 9.0, "metrics": [own]}
            for place, own in enumerate([(f"personalised.{metric}", 0.2), (f"personalised.{metric}", values[0])])
        ),
    ]
    for place, value in enumerate(users):
        own = [(f"personalised.{metric}", value), (f"collective.{metric}", 0.3)]
        tasks.append({"phase": "personalize", "round": 2, "user": 4 + place, "wall_s": 5.0 + place, "metrics": own})
    write(folder / "clients.parquet", [{"steps": 1, **task} for task in tasks])
    record = RunRecord(
        name=folder.name,
        status="completed",
        method=method,
        task="movie_tagging",
        backbone="tiny",
        seed=0,
        users=UsersPart(collective=4, target=2, data_sha256="", source="synthetic"),
        metrics={metric: values[1]},
        metrics_collective={metric: 0.4},
        metrics_base={metric: 0.05},
        bytes=BytesPart(per_client_round_up=each_way / 2, per_client_round_down=each_way / 2),
        params=ParamsPart(shared=8, private=2, backbone=100),
    )
    return Run(method, folder, tiny_config("rounds=2"), record)


def analysed(runs: list[Run], reference: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Analyse runs and return the comparison as `compare.json` has it."""
    comparison, curves = compare_runs(runs, reference)
    return comparison.model_dump(mode="json", by_alias=True), curves


def test_curve_counts_the_opening_but_not_measurements(tmp_path: Path) -> None:
    line = curve(made_up(tmp_path / "x", "dear", "accuracy", 100, 20, [0.6, 1.0], [1.0, 1.0]))
    assert line["round"].tolist() == [1, 2]
    assert line.value.tolist() == [0.6, 1.0]
    # Opening and round 1, then round 2; down also includes one download of the target users.
    assert line.bytes_up.tolist() == [120, 140]
    assert line.bytes_down.tolist() == [40, 60]
    assert line.bytes_total_per_client.tolist() == [160 / 6, 200 / 6]


@pytest.mark.parametrize(
    ("metric", "cheap", "dear", "reached", "difference"),
    [
        # 90 % of 1.0 is reached at 0.92; 95 % is not.
        ("accuracy", [0.5, 0.92], [0.6, 1.0], [50.0, None, None], [0.9, 0.94]),
        # For an error, the lowest is the best: 0.9 / 90 % is 1.0, 0.9 / 95 % is 0.947.
        ("mae", [2.0, 0.98], [1.5, 0.9], [50.0, None, None], [0.9, 1.06]),
    ],
)
def test_all_figures_of_a_comparison(
    metric: str,
    cheap: list[float],
    dear: list[float],
    reached: list[float | None],
    difference: list[float],
    tmp_path: Path,
) -> None:
    runs = [
        made_up(tmp_path / "cheap", "cheap", metric, 0, 10, cheap, difference),
        made_up(tmp_path / "dear", "dear", metric, 100, 20, dear, [1.0, 1.0]),
    ]
    report, curves = analysed(runs, "cheap")
    ours, theirs = report["methods"]
    assert (report["best"], report["metric"], report["lower_is_better"]) == ("dear", metric, metric == "mae")
    assert ours["quality"] == {"mean": cheap[1], "std": None, "per_seed": [cheap[1]]}
    assert (ours["quality_collective"]["mean"], report["base"]["mean"]) == (0.4, 0.05)
    assert (ours["bytes"]["in_all"], theirs["bytes"]["in_all"]) == (50, 200)
    assert list(ours["bytes_to_reach"].values()) == [{"mean_curve": each, "per_seed": [each]} for each in reached]
    assert list(theirs["bytes_to_reach"].values()) == [{"mean_curve": 200, "per_seed": [200]}] * 3
    # `dear` is no better than the final quality of `cheap` before its own end.
    assert [row["bytes_to_match"]["mean_curve"] for row in (ours, theirs)] == [50, 200]
    # The total of `cheap`, and the fewest bytes within which `dear` was evaluated, after the end of `cheap`.
    assert report["equal_bytes"] == [50, 160]
    assert [each["mean"] for each in ours["quality_at_equal_bytes"]] == [cheap[1], cheap[1]]
    assert theirs["quality_at_equal_bytes"][0] is None
    assert theirs["quality_at_equal_bytes"][1]["mean"] == dear[0]
    # Within 160 bytes, `dear` had only its first evaluation, 0.2 and dear[0], and `cheap` its last.
    at_equal_bytes = theirs["quality_at_equal_bytes"][1]["against"]
    assert at_equal_bytes["difference"] == pytest.approx((0.2 + dear[0] - sum(difference)) / 2)
    assert (at_equal_bytes["users"], at_equal_bytes["within_noise"]) == (2, True)
    assert [each["against"] for each in ours["quality_at_equal_bytes"]] == [None, None]
    assert rows_of(comparison_tables(Comparison.model_validate(report))[2])[1][-2:] == ["–", f"{dear[0]:.3f} ≈"]
    assert theirs["against"]["difference"] == pytest.approx(1 - sum(difference) / 2)
    assert theirs["against"]["users"] == 2
    assert ours["against"] is None
    assert ours["seconds"] == {"opening": 8.0, "train": 3.0, "personalize": 5.5}
    assert ours["params"] == {"shared": 8, "private": 2}
    assert curves.groupby("method").bytes_total.max().to_dict() == {"cheap": 50, "dear": 200}


def test_seeds_are_averaged_by_round(tmp_path: Path) -> None:
    first = made_up(tmp_path / "a", "cheap", "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0])
    second = made_up(tmp_path / "b", "cheap", "accuracy", 0, 10, [0.95, 1.0], [1.0, 1.0])
    second.record.seed = 1
    report, curves = analysed([second, first], "cheap")
    (row,) = report["methods"]
    assert row["quality"]["mean"] == pytest.approx(0.9)
    assert row["quality"]["std"] == pytest.approx(0.02**0.5)
    # 0.9 · 90 % = 0.81 is reached at the end, where the mean is 0.9; seed 1 reached 90 % of its 1.0 after a round.
    assert row["bytes_to_reach"]["90%"] == {"mean_curve": 50, "per_seed": [50, 30]}
    assert bytes_reached(BytesToReach(**row["bytes_to_reach"]["90%"])) == "50 B (30 B to 50 B)"
    assert bytes_reached(BytesToReach(mean_curve=None, per_seed=[30, None])) == "– (1 of 2 seeds)"
    assert isinstance(curves, pd.DataFrame)
    assert report["equal_bytes"] == [30, 50]
    assert row["quality_at_equal_bytes"][0]["per_seed"] == [0.5, 0.95]


def test_a_method_reaches_its_own_quality_although_means_differ_in_the_last_bit(tmp_path: Path) -> None:
    runs = []
    for seed, right in enumerate((184, 168, 170)):  # NumPy's mean of these shares is one bit above pandas'
        runs.append(made_up(tmp_path / str(seed), "cheap", "accuracy", 0, 10, [0.2, right / 240], [1.0, 1.0]))
        runs[-1].record.seed = seed
    report, _ = analysed(runs, "cheap")
    assert report["methods"][0]["bytes_to_match"] == {"mean_curve": 50, "per_seed": [50, 50, 50]}


def test_equal_bytes_are_computed_per_seed(tmp_path: Path) -> None:
    # Messages of 10 and 12 bytes: totals of the seeds are 50 and 60, their first evaluations are at 30 and 36.
    runs = []
    for seed, each_way in enumerate((10, 12)):
        runs.append(made_up(tmp_path / str(seed), "cheap", "accuracy", 0, each_way, [0.2, 0.9], [1.0, 1.0]))
        runs[-1].record.seed = seed
    report, _ = analysed(runs, "cheap")
    (row,) = report["methods"]
    assert report["equal_bytes"] == [33, 55]
    assert [each["per_seed"] for each in row["quality_at_equal_bytes"]] == [[0.2, 0.2], [0.9, 0.9]]


def test_caption_lists_settings_in_which_methods_differ(tmp_path: Path) -> None:
    ours = made_up(tmp_path / "a", "perfit", "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0])
    theirs = made_up(tmp_path / "b", "fdlora", "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0])
    other = tiny_config("rounds=2", "method=fdlora", "local.epochs=3", "local.lr=0.5", "users.source=x")
    report, _ = analysed([ours, replace(theirs, config=other)], "perfit")
    assert report["other_settings"] == {"local.epochs": {"perfit": 1, "fdlora": 3}}
    quality, _, _, messages, seconds = comparison_tables(Comparison.model_validate(report))
    assert str(quality.caption).endswith("; local.epochs is 1 (perfit), 3 (fdlora)")
    assert [str(column.header) for column in seconds.columns][1:] == ["opening", "a round", "stage 2 and evaluation"]
    assert rows_of(seconds)[0][1:] == ["8.0", "3.0", "5.5"]
    rates = [row[5] for row in rows_of(messages)]
    assert rates == [f"{ours.config.local.lr:g}, {ours.config.personal.lr:g}", f"0.5, {other.personal.lr:g}"]


def test_caption_lists_runs_with_uncommitted_changes(tmp_path: Path) -> None:
    runs = [made_up(tmp_path / name, name, "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0]) for name in ("a", "b")]
    runs[1].record.git = {"commit": "0" * 40, "dirty": True}
    report, _ = analysed(runs, "a")
    quality, *_ = comparison_tables(Comparison.model_validate(report))
    assert str(quality.caption).endswith("; run from a checkout with uncommitted changes: b, seed 0")


def test_no_share_is_reached_if_the_best_quality_is_zero(tmp_path: Path) -> None:
    report, _ = analysed([made_up(tmp_path / "a", "a", "accuracy", 0, 10, [0.0, 0.0], [0.0, 0.0])], "a")
    assert [each["mean_curve"] for each in report["methods"][0]["bytes_to_reach"].values()] == [None] * 3


def test_interval_of_a_difference_covers_95_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made_up(tmp_path / name, name, "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0]) for name in ("a", "b")]
    gain = {"a": 0.0, "b": 1.0}
    monkeypatch.setattr(
        "simulations.experiments.comparison.significance.per_user",
        lambda run, _number: {str(user): gain[run.method] * (user % 2) for user in range(100)},
    )
    low, high = paired_test([runs[1]], [runs[0]]).interval
    # Half of 100 users gain 1: the mean has a standard deviation of 0.05, and 95 % are within 1.96 of these.
    assert (low, high) == pytest.approx((0.402, 0.598), abs=0.011)
    # A single user gives no estimate of noise.
    where = "simulations.experiments.comparison.significance.per_user"
    monkeypatch.setattr(where, lambda run, _number: {"ann": gain[run.method]})
    single = paired_test([runs[1]], [runs[0]])
    assert (single.p_value, single.interval, single.within_noise) == (1.0, None, True)


def test_curves_are_drawn_on_a_logarithmic_axis_with_a_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        "simulations.experiments.comparison.plots.save_figure", lambda figure, *_: figures.append(figure)
    )
    runs = [
        made_up(tmp_path / f"{name}{seed}", name, "accuracy", 0, 10**6, [0.4 + seed / 5, 0.8], [1.0, 1.0])
        for name in ("sends", "free")
        for seed in (0, 1)
    ]
    for run in runs:
        run.record.seed = int(run.folder.name[-1])
        run.record.params.shared *= run.method == "sends"
    draw_curves(*compare_runs(runs, "sends"), tmp_path)
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    line, level, base = axes.lines
    # 3 messages of 1 MB until the first evaluation, including the target users' download, and 5 until the end.
    assert line.get_xydata().tolist() == [[3, pytest.approx(0.5)], [5, 0.8]]
    (band,) = axes.collections
    heights = [y for x, y in band.get_paths()[0].vertices if round(x) == 3]
    assert (min(heights), max(heights)) == pytest.approx((0.5 - 0.02**0.5, 0.5 + 0.02**0.5))
    assert (level.get_linestyle(), set(level.get_ydata())) == ("--", {0.8})
    assert set(base.get_ydata()) == {0.05}


def test_paired_test_agrees_with_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(method: str, seed: int) -> Run:
        made = made_up(tmp_path / f"{method}{seed}", method, "accuracy", 0, 10, [0.5, 0.8], [1.0, 1.0])
        made.record.seed = seed
        return made

    ours, theirs = ([run(method, seed) for seed in (0, 1)] for method in ("lora-c", "perfit"))
    scores = {("lora-c", 0): [0.5, 0.75, 1.0], ("lora-c", 1): [0.5, 0.25, 1.0]}
    scores |= {("perfit", 0): [0.25, 0.25, 0.5], ("perfit", 1): [0.0, 0.0, 0.5]}
    monkeypatch.setattr(
        "simulations.experiments.comparison.significance.per_user",
        lambda run, _number: dict(zip(("ann", "ben", "cy"), scores[run.method, run.record.seed], strict=True)),
    )
    found = paired_test(ours, theirs)
    # Six pairs, all in favour: 2 of 2⁶ sign patterns are as extreme.
    assert found.difference == pytest.approx(2.5 / 6)
    assert found.p_value == pytest.approx(2 / 64)
    assert (found.users, found.within_noise) == (6, False)
    assert stats.wilcoxon([0.25, 0.5, 0.5, 0.5, 0.25, 0.5]).pvalue < 0.05
    assert paired_test(theirs, theirs).p_value == 1.0
    assert paired_test([theirs[1], ours[0]], theirs).per_seed == pytest.approx(
        [1.25 / 3, 0]
    )  # in increasing order of seeds
    # If the users are real, those of both seeds are the same three users: 2 of 2³ patterns are as extreme.
    for each in (*ours, *theirs):
        each.record.users.source = "lamp"
    assert paired_test(ours, theirs).p_value == pytest.approx(2 / 8)
