"""All figures of a cold start computed by hand, from given rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest

from simulations.display.tables import rows_of
from simulations.experiments.cold_start import findings as module
from simulations.experiments.cold_start.findings import (
    brightness,
    compositions,
    differences,
    newcomers,
    numbers,
    quality_by_number,
    transfer_matrix,
)
from simulations.experiments.cold_start.schema import NearFinal, Side
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.cold_start.write import write_cold_start
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.schema import PairedTest
from tests.conftest import tiny_config

_PLAIN: dict[str, Any] = {
    "task": "a",
    "trained_on": "a",
    "method": "perfit",
    "collective": 10,
    "group": 0,
    "history": None,
    "epochs": 4,
    "seed": 0,
    "metric": "accuracy",
    "second_metric": "f1",
    "second_value": 0.3,
    "value": 0.5,
    "value_collective": 0.4,
    "value_base": 0.1,
    "worst_decile": 0.2,
    "worst_decile_collective": 0.15,
    "q1": 0.1,
    "q2": 0.2,
    "q3": 0.3,
    "q4": 0.4,
    "shared_parameters": 8,
    "trained": 7,
    "bytes_total": 1000.0,
    "newcomer_bytes": 50.0,
    "newcomer_items": 6.0,
    "newcomer_upload_bytes": 0.0,
    "newcomer_steps": 8.0,
    "newcomer_turn_seconds": 1.0,
    "commit": "c0ffee",
    "dirty": False,
    "folder": "x",
}


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{**_PLAIN, **change} for change in changes])


def later(**changes: Any) -> dict[str, Any]:
    """A run that starts from another run's stage 1, so it has no total of bytes."""
    return {"bytes_total": float("nan"), **changes}


STRAYS = [
    {"value": 9.0, "value_collective": 9.0, "group": 1},
    later(value=9.0, value_collective=9.0, trained_on="b"),
    later(value=9.0, value_collective=9.0, history=3, group=1),
]
"""Rows of another group or another task's shift, which figures of the main runs must not include."""


def test_main_table_averages_main_runs_over_seeds() -> None:
    (found,) = numbers(
        rows(
            {"value": 0.5},
            {"value": 0.7, "seed": 1, "worst_decile": 0.4, "bytes_total": 2000.0, "q4": 0.8},
            *STRAYS,
            later(value=9.0, history=3),
            later(value=9.0, epochs=1),
        )
    )
    assert [found.value, found.worst_decile, found.bytes_total, found.q4] == pytest.approx([0.6, 0.3, 1500, 0.6])
    assert found.value_deviation == pytest.approx(0.02**0.5)
    assert found.value_collective_deviation == 0
    assert (found.task, found.collective, found.method, found.newcomer_bytes) == ("a", 10, "perfit", 50)


@pytest.mark.parametrize(
    ("metric", "before", "one", "two", "final", "near"),
    [
        # 95 % of 0.8 is 0.76.
        ("accuracy", 0.4, 0.75, 0.77, 0.8, {"epochs": 2, "steps": 4.0, "seconds": 5.0}),
        ("accuracy", 0.4, 0.76, 0.77, 0.8, {"epochs": 1, "steps": 2.0, "seconds": 3.0}),
        ("accuracy", 0.9, 0.76, 0.77, 0.8, {"epochs": 0, "steps": 0.0, "seconds": None}),
        # Near at 0 epochs, but not at 1: quality would drop in between.
        ("accuracy", 0.9, 0.75, 0.77, 0.8, {"epochs": 2, "steps": 4.0, "seconds": 5.0}),
        ("accuracy", 0.0, 0.1, 0.0, 0.0, None),
        # For an error, 1.9 / 95 % is 2.
        ("mae", 3.0, 2.1, 1.99, 1.9, {"epochs": 2, "steps": 4.0, "seconds": 5.0}),
        ("mae", 1.5, 2.0, 1.99, 1.9, {"epochs": 0, "steps": 0.0, "seconds": None}),
    ],
)
def test_epochs_until_a_newcomer_is_near_its_final_quality(
    metric: str, before: float, one: float, two: float, final: float, near: dict[str, float] | None
) -> None:
    frame = rows(
        {"value": final, "value_collective": before},
        later(value=one, epochs=1, newcomer_steps=2.0, newcomer_turn_seconds=3.0),
        later(value=two, epochs=2, newcomer_steps=4.0, newcomer_turn_seconds=5.0),
        later(value=0.3, history=5, worst_decile=0.05, newcomer_items=4.5, newcomer_steps=3.0),
        *STRAYS,
    ).assign(metric=metric)
    (found,) = newcomers(frame)
    assert (found.near_final and found.near_final.model_dump()) == near
    assert found.near_final_per_seed == [near and near["epochs"]]
    assert found.epochs_tried == [0, 1, 2, 4]
    assert found.download_bytes == 50
    assert [(items, level.mean) for items, level in found.by_history.items()] == [
        ("0", before),
        ("5", 0.3),
        ("all", final),
    ]
    assert [level.worst_decile for level in found.by_history.values()] == [0.15, 0.05, 0.2]
    assert [level.items for level in found.by_history.values()] == [0, 4.5, 6]
    assert [level.steps for level in found.by_history.values()] == [0, 3, 8]


def test_near_final_quality_is_also_given_per_seed() -> None:
    # 95 % of 0.8, the final quality with both seeds, is 0.76; one epoch gives 0.9 and 0.7, with mean 0.8.
    frame = rows(
        *({"value": 0.8, "value_collective": 0.1, "seed": seed} for seed in (0, 1)),
        *(later(value=value, epochs=1, seed=seed) for seed, value in ((0, 0.9), (1, 0.7))),
    )
    (found,) = newcomers(frame)
    assert (found.near_final and found.near_final.epochs, found.near_final_per_seed) == (1, [1, 4])


def test_without_a_stage_2_only_zero_epochs_are_tried() -> None:
    (found,) = newcomers(rows({"newcomer_steps": 0.0, "value_collective": 0.5}, later(newcomer_steps=0.0, epochs=1)))
    assert (found.epochs_tried, found.near_final) == ([0], NearFinal(epochs=0, steps=0.0, seconds=None))


def test_compositions_vary_within_a_seed() -> None:
    # Seed 0: 0.4, 0.5, 0.6, variance 0.01, range 0.2. Seed 1: 0.9, 0.7, 0.8, the same; group means would hide it.
    values = {(0, 0): 0.4, (1, 0): 0.5, (2, 0): 0.6, (0, 1): 0.9, (1, 1): 0.7, (2, 1): 0.8}
    frame = rows(
        *(
            {"group": group, "seed": seed, "value": value, "second_value": value / 2}
            for (group, seed), value in values.items()
        )
    )
    strays = [{"collective": 100}, later(value=9.0, epochs=1), later(value=9.0, history=3), STRAYS[1]]
    # LoRA-P has no stage 1, so no other groups.
    strays.append({"method": "lora-p", "shared_parameters": 0})
    found, second = compositions(pd.concat([frame, rows(*strays)]))
    assert (found.method, found.collective, found.metric) == ("perfit", 10, "accuracy")
    assert (second.metric, second.variance, second.worst_decile) == ("f1", pytest.approx(0.0025), None)
    assert found.groups == pytest.approx([0.65, 0.6, 0.7])
    assert (found.variance, found.range, found.mean) == pytest.approx((0.01, 0.2, 0.65))
    assert found.worst_decile == pytest.approx(0.2)


def test_transfer_matrix_is_of_the_largest_number_of_users() -> None:
    both = {"collective": 100}
    frame = rows(
        {**both, "value": 0.6, "worst_decile": 0.3},
        later(**both, value=0.5, task="b"),
        {**both, "task": "b", "trained_on": "b", "value": 0.8},
        later(**both, task="a", trained_on="b", value=0.4),
        later(**both, value=9.0, epochs=1),
        later(**both, value=9.0, history=3),
        {**both, "value": 9.0, "group": 1},
        {"value": 9.0},
    )
    assert transfer_matrix(frame, "perfit").to_dict("index") == {"a": {"a": 0.6, "b": 0.5}, "b": {"a": 0.4, "b": 0.8}}
    assert transfer_matrix(frame, "perfit", "worst_decile").loc["a", "a"] == 0.3
    # Brightness is the share of a column's best, which is the lowest for an error.
    matrix = transfer_matrix(frame, "perfit")
    assert brightness(matrix, frame).to_numpy().ravel() == pytest.approx([1, 0.625, 2 / 3, 1])
    assert brightness(matrix * 0, frame).to_numpy().tolist() == [[1, 1], [1, 1]]
    frame.loc[frame.task == "b", "metric"] = "mae"
    assert brightness(matrix, frame).to_numpy().ravel() == pytest.approx([1, 1, 2 / 3, 0.625])
    frame.loc[frame.trained_on == "a", "value"] = 0.0
    assert brightness(transfer_matrix(frame, "perfit"), frame).to_numpy().tolist() == [[0, 1], [1, 0]]


class Record:
    main_metric, seed, metrics_base = "mae", 0, {"mae": 2.0}
    users = SimpleNamespace(target=3)
    baselines: ClassVar[dict[str, dict[str, float]]] = {}
    controls: ClassVar[dict[str, dict[str, float]]] = {}


def run(method: str, count: int) -> Run:
    words = [f"users.collective={count}", "cohort=2", "local.epochs=3" if method == "oppu" else "local.epochs=1"]
    config = tiny_config(*words, f"evaluate.every={count}")
    return Run(method, Path(f"{method}-{count}"), config, Record())  # type: ignore[arg-type]


def test_few_are_tested_against_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def test(one: list[Run], other: list[Run]) -> PairedTest:
        tested.append((one[0].folder.name, other[0].folder.name))
        figures = {"difference": -0.1, "interval": (-0.2, 0.1), "p_value": 0.0006, "users": 7, "within_noise": True}
        figures |= {"p_users": 0.0006, "p_seeds": None, "p_adjusted": 0.0006}
        return PairedTest(**figures, per_seed=seeds)

    seeds = [-0.1]
    tested: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "paired_test", test)
    pairs = [(method, count) for count in (3, 10, 30) for method in ("perfit", "oppu")]
    task = {"task": "movie_tagging", "trained_on": "movie_tagging", "metric": "mae"}
    frame = rows(*({**task, "method": m, "collective": n, "worst_decile": n / 10} for m, n in pairs))
    runs = [run(*pair) for pair in pairs]
    found = differences(runs, frame)
    assert tested == [
        ("perfit-3", "perfit-30"), ("perfit-3", "oppu-30"), ("perfit-10", "perfit-30"), ("perfit-10", "oppu-30"),
        ("oppu-3", "oppu-30"), ("perfit-3", "oppu-3"),
    ]  # fmt: skip
    assert found[1].one == Side(method="perfit", collective=3, worst_decile=0.3)
    assert found[1].other == Side(method="oppu", collective=30, worst_decile=3.0)
    # Six tests in one table.
    assert (found[1].p_value, found[1].p_adjusted) == (0.0006, pytest.approx(0.0036))
    assert (found[1].users, found[1].metric) == (7, "mae")
    quality, _, table, behind = cold_start_tables(write_cold_start(frame, runs, tmp_path))[:4]
    assert str(quality.title).startswith("movie_tagging, tiny, seeds 0: ")
    assert rows_of(quality)[0] == ["", "bare backbone", "2.000", "", ""]
    settings = (
        "target users: 3; rounds: 2; cohort: 2 (of 3), 2 (of 10), 2 (of 30); local.epochs is 1 (perfit), 3 (oppu)"
    )
    assert settings in str(quality.caption)
    sides = ["perfit with 3", "oppu with 30"]
    assert rows_of(table)[1] == [*sides, "-0.100", "-0.200 to +0.100", "0.004"]
    assert rows_of(behind)[1] == [*sides, "0.300 / 3.000", "7"]
    assert str(table.title) == "few collective users against many: movie_tagging, mae ↓"
    seeds = [-0.3, 0.1]
    behind = cold_start_tables(write_cold_start(frame, runs, tmp_path))[3]
    assert rows_of(behind)[1][2] == "-0.300 +0.100"
    assert str(behind.columns[2].header) == "by seed"
    few = [each for each in runs if each.folder.name.endswith("-3")]
    table = cold_start_tables(write_cold_start(frame[frame.collective == 3], few, tmp_path))[2]
    assert str(table.title) == "method against method: movie_tagging, mae ↓"
    assert "uncommitted" not in str(quality.caption)
    unclean = cold_start_tables(write_cold_start(frame.assign(dirty=frame.collective == 3), runs, tmp_path))[0]
    assert str(unclean.caption).endswith("; run from a checkout with uncommitted changes: x, x")
    assert differences([run("perfit", 3)], frame) == []
    tested.clear()
    differences([run("perfit", 3), run("oppu", 3)], frame)
    assert tested == [("perfit-3", "oppu-3")]


def test_quality_by_number_has_both_metrics_of_every_task() -> None:
    frame = rows(
        {"value": 0.5, "second_value": 0.3},
        {"value": 0.7, "second_value": 0.5, "seed": 1},
        {"method": "oppu", "value": 0.4},
        {"task": "b", "trained_on": "b", "metric": "mae", "second_metric": None, "second_value": None, "value": 1.0},
    )
    found = quality_by_number(numbers(frame)).set_index(["collective", "method"])
    assert list(found) == [
        "a accuracy", "a accuracy deviation", "a f1", "a f1 deviation", "a worst decile", "a bytes",
        "b mae", "b mae deviation", "b worst decile", "b bytes",
    ]  # fmt: skip
    assert found.loc[(10, "perfit"), ["a accuracy", "a f1", "b mae"]].tolist() == pytest.approx([0.6, 0.4, 1.0])
    assert found.loc[(10, "perfit"), "a f1 deviation"] == pytest.approx(0.02**0.5)
    assert found.loc[(10, "oppu"), "a accuracy"] == 0.4
