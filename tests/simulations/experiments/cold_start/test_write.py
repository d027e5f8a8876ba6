"""The tables of a cold start, from given rows."""

from pathlib import Path

from simulations.display.tables import rows_of
from simulations.experiments.cold_start.schema import TaskSettings
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.cold_start.write import findings, left_out
from tests.simulations.experiments.cold_start.test_findings import later, rows


def test_all_cells_of_the_tables() -> None:
    frame = rows(
        {"value": 0.5},
        {"value": 0.7, "value_collective": 0.5, "seed": 1},
        {"value": 0.6, "group": 1, "worst_decile": 0.1},
        {"value": 0.4, "group": 1, "seed": 1, "worst_decile": 0.1},
        later(value=0.45, history=3, newcomer_items=2.5),
        later(value=0.48, history=5, newcomer_items=5.0),
        later(value=0.59, epochs=1, newcomer_steps=2.0),
        later(value=1.2, task="b", metric="mae", worst_decile=2.5),
        {"task": "b", "trained_on": "b", "metric": "mae", "value": 1.0, "q1": None, "q2": None, "q3": None, "q4": None},
        later(value=0.3, trained_on="b", worst_decile=0.05),
    )
    common = {"backbone": "x", "seeds": [0, 1], "target_users": 2, "rounds": 3, "cohorts": {"10": 4}}
    base = {"base": {"mean": 0.1, "std": 0.05, "per_seed": [0.05, 0.15]}, "other_settings": {}}
    report = findings(frame, [], "x")
    report.settings = [TaskSettings.model_validate({"task": task, **common, **base}) for task in ("a", "b")]
    numbers, behind, errors, behind_errors, newcomers, histories, others, other_histories, groups, matrix = (
        cold_start_tables(report)
    )
    bare = ["", "bare backbone", "0.100 ± 0.050", "", ""]
    assert rows_of(numbers) == [bare, ["10", "perfit", "0.600 ± 0.141", "0.450 ± 0.071", "1.00 kB"]]
    assert rows_of(behind) == [["10", "7", "perfit", "0.300 ± 0.000", "0.200", "0.10 / 0.20 / 0.30 / 0.40"]]
    # Histories of one length have no quarters.
    assert rows_of(errors)[1:] == [["10", "perfit", "1.000", "0.400", "1.00 kB"]]
    assert rows_of(behind_errors) == [["10", "7", "perfit", "0.300", "0.200"]]
    assert [str(column.header) for column in errors.columns][2] == "mae ↓"
    assert [str(column.header) for column in behind_errors.columns][3] == "f1"
    assert rows_of(newcomers) == [["perfit", "10", "50 B", "1", "0, 1, 4 (1, 4)", "2", "1.0"]]
    assert rows_of(others) == [["perfit", "10", "50 B", "0", "0, 4", "0", "–"]]
    assert [str(column.header) for column in histories.columns] == ["method", "users", "0", "3", "5", "all"]
    levels = ["0.450 (0.150)", "0.450 (0.200)", "0.480 (0.200)", "0.600 (0.200)"]
    assert rows_of(histories) == [["perfit", "10", *levels]]
    assert str(histories.caption).endswith("; 3: 2.5 on average")
    assert rows_of(other_histories) == [["perfit", "10", "0.400 (0.150)", "1.000 (0.200)"]]
    # Seed 0: 0.5 and 0.6, variance 0.005, range 0.1; seed 1: 0.7 and 0.4, 0.045 and 0.3.
    assert rows_of(groups)[0] == ["a, accuracy", "perfit", "10", "0.600 0.500", "0.550", "0.150", "2.50e-02", "0.200"]
    assert [str(column.header) for column in matrix.columns] == ["method", "trained on", "a, accuracy", "b, mae ↓"]
    assert rows_of(matrix) == [
        ["perfit", "a", "0.600 ± 0.141 (0.200)", "1.200 (2.500)"],
        ["perfit", "b", "0.300 (0.050)", "1.000 (0.200)"],
    ]


def test_left_out_counts_runs_of_another_specification(tmp_path: Path) -> None:
    current = rows({"folder": "one"}, {"folder": "two"})
    assert left_out(current, tmp_path) == 0
    current.to_csv(tmp_path / "cold_start.csv")
    assert left_out(current, tmp_path) == 0
    assert left_out(rows({"folder": "two"}, {"folder": "three"}), tmp_path) == 1
    for damaged in ("", "task,method\na,b\n"):
        (tmp_path / "cold_start.csv").write_text(damaged)
        assert left_out(current, tmp_path) == 0
