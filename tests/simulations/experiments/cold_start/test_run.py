"""Cold start: nested users, runs that start from others, and figures of the tables computed by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from configs.errors import InputError
from configs.load import load_config
from fl_clients.backbone.load import read_shape
from simulations.experiments import compare as comparison_runs
from simulations.experiments.cold_start import rows as cold_start_rows
from simulations.experiments.cold_start import run as module
from simulations.experiments.cold_start.experiment import cold_start
from simulations.experiments.cold_start.findings import transfer_matrix
from simulations.experiments.cold_start.run import run_all
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.cold_start.write import findings
from simulations.experiments.compare import complete
from simulations.experiments.plan import plan
from simulations.run.preflight import build_method
from simulations.run.starting_run import fitting
from tests.conftest import TINY, movie, write_lamp

pytestmark = pytest.mark.integration
WORDS = [word for word in TINY if not word.startswith(("users.collective", "users.target"))]
WORDS += ["users.target=4", "cohort=4", "rounds=1"]
ASKED = ColdStartSpec(
    collective=[4, 2],
    methods=["perfit", "lora-c"],
    tasks=["movie_tagging", "product_rating"],
    seeds=[0, 1],
    history=[0, 3],
    epochs=[1],
    compositions=2,
    transfer=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results") / "cold-start"
    cold_start(ASKED, None, WORDS, folder.name, folder.parent)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "cold_start.csv")


def users(folder: Path, name: str) -> list[str]:
    ids: list[str] = pd.read_parquet(folder / name / "users.parquet").user_id.tolist()
    return ids


def test_all_runs_of_the_specification_exist(folder: Path, rows: pd.DataFrame) -> None:
    # Two tasks, methods and seeds: 16 main runs with 2 and 4 users, and 8 with another group. From each of PerFit's
    # 8 main runs, one run with 3 items and one with 1 epoch; LoRA-C has no stage 2. From each of the 8 main runs with
    # 4 users, one run on the other task.
    assert len(rows) == 16 + 8 + 2 * 8 + 8
    assert all((folder / name / "run.json").is_file() for name in rows.folder)
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".csv", ".json", ".png", ".svg", ".pdf", ""}
    assert (folder / "transfer.png").is_file()


def test_collective_users_are_nested_and_target_users_are_the_same(folder: Path) -> None:
    few, many = (users(folder, f"movie_tagging-perfit-{count}-seed0") for count in (2, 4))
    assert few[:2] == many[:2]
    assert few[2:] == many[4:]
    other = users(folder, "movie_tagging-perfit-2-group1-seed0")
    assert not set(other[:2]) & set(few[:2])
    assert other[2:] == few[2:]
    assert users(folder, "movie_tagging-lora-c-4-seed0") == many


def test_row_agrees_with_its_run_record(folder: Path, rows: pd.DataFrame) -> None:
    row = rows.set_index("folder").loc["movie_tagging-perfit-4-seed1"]
    record = json.loads((folder / "movie_tagging-perfit-4-seed1" / "run.json").read_text())
    assert row.value == pytest.approx(record["metrics"]["accuracy"], rel=1e-5)
    assert row.worst_decile == pytest.approx(record["per_user"]["accuracy"]["p10"], rel=1e-5)
    # Histories of one length have no quarters.
    assert row[["q1", "q2", "q3", "q4"]].isna().all()
    ledger = pd.read_parquet(folder / "movie_tagging-perfit-4-seed1" / "ledger.parquet")
    down = ledger[(ledger.phase == "personalize") & (ledger.direction == "down")]
    assert row.newcomer_bytes == pytest.approx(down.message_bytes.sum() / 4)
    # 8 items in one batch, 2 epochs.
    assert (row.newcomer_items, row.newcomer_steps) == (8, 2)
    train = ledger[(ledger.phase == "train") & (ledger.direction == "up")]
    assert row.trained == train.user.nunique() == 4
    assert (
        row.bytes_total
        == train.message_bytes.sum()
        + ledger[(ledger.phase.isin(["train", "personalize"])) & (ledger.direction == "down")].message_bytes.sum()
    )
    assert tuple(rows.columns) == cold_start_rows.COLUMNS
    assert (row.second_metric, row.second_value) == ("f1", pytest.approx(record["metrics"]["f1"], rel=1e-5))
    # For an error, the worst users have the highest values.
    rated = rows.set_index("folder").loc["product_rating-perfit-4-seed1"]
    errors = json.loads((folder / "product_rating-perfit-4-seed1" / "run.json").read_text())["per_user"]["mae"]
    assert errors["p10"] < errors["p90"]
    assert rated.worst_decile == pytest.approx(errors["p90"], rel=1e-5)


def test_real_users_of_several_tasks_with_history_quarters(tmp_path: Path) -> None:
    for task, layout in (("movie_tagging", "LaMP_2"), ("tweet_paraphrase", "LaMP_7")):
        tweet = "Paraphrase the following tweet without any explanation before or after it: It is late."
        questions = [
            movie(str(number), history=2 + number)
            if task == "movie_tagging"
            else {"id": str(number), "input": tweet, "profile": [{"id": "h", "text": f"so late! {number}"}] * 2}
            for number in range(10)
        ]
        (tmp_path / "lamp").mkdir(exist_ok=True)
        golds = [{"id": str(number), "output": "comedy"} for number in range(10)]
        write_lamp(tmp_path / "lamp" / task, questions, golds, layout)
    spec = ColdStartSpec([2], ["perfit", "lora-p"], ["movie_tagging", "tweet_paraphrase"], [0], [], [], 2, True)
    words = [*WORDS, f"users.source={tmp_path / 'lamp'}/{{task}}"]
    rows, runs = run_all(spec, None, words, tmp_path / "x", print)
    # Only a method with a stage 1 has other groups and transfers; LoRA-P has one run per task.
    assert rows.groupby("method").size().to_dict() == {"perfit": 2 + 2 + 2, "lora-p": 2}
    assert {run.record.users.source for run in runs} == {"lamp"}
    report = findings(rows, runs, "x")
    assert {row.method for row in report.compositions} == {"perfit"}
    assert [what.cohorts for what in report.settings] == [{"2": 2}, {"2": 2}]

    first = rows.iloc[0]
    users = pd.read_parquet(tmp_path / "x" / first.folder / "users.parquet").set_index("partition")
    clients = pd.read_parquet(tmp_path / "x" / first.folder / "clients.parquet")
    own = clients[clients.phase == "personalize"].set_index("user")
    scores = {user: dict(own.metrics[user])["personalised.accuracy"] for user in own.index}
    # Four target users with different history lengths: a quarter is one user.
    shortest_first = sorted(scores, key=lambda user: users.history[user])
    assert [first[f"q{number}"] for number in range(1, 5)] == [scores[user] for user in shortest_first]


def test_quarters_are_by_history_length_with_ties_by_partition() -> None:
    lengths = pd.Series({2: 5, 3: 1, 4: 5, 5: 20, 6: 3, 1: 9})
    scores = {2: 0.5, 3: 0.1, 4: 0.6, 5: 1.0, 6: 0.2}
    # By history: 3 (1 item), 6 (3), 2 (5), 4 (5), 5 (20); user 1 has no questions. 5·1/4 = 1, 5·2/4 = 2, 5·3/4 = 3.
    quarters = {"q1": 0.1, "q2": 0.2, "q3": 0.5, "q4": pytest.approx((0.6 + 1.0) / 2)}
    assert cold_start_rows._quartiles(scores, lengths) == quarters
    assert cold_start_rows._quartiles({2: 0.5, 3: 0.1, 4: 0.6}, lengths[[2, 3, 4]])["q1"] is None
    # One user of another length is not enough for quarters.
    one = pd.Series([31, 32, 32, 32, 32, 32, 32, 32])
    assert cold_start_rows._quartiles(dict(one.items()), one)["q1"] is None


def test_runs_that_start_from_another_do_not_train_the_collective_shift(folder: Path, rows: pd.DataFrame) -> None:
    for suffix in ("history3", "epochs1", "to-product_rating"):
        name = f"movie_tagging-perfit-4-seed0-{suffix}"
        assert "train" not in set(pd.read_parquet(folder / name / "ledger.parquet").phase)
        tensors = [
            (folder / each / "shared.safetensors").read_bytes() for each in (name, "movie_tagging-perfit-4-seed0")
        ]
        assert tensors[0] == tensors[1]
    moved = rows.set_index("folder").loc["movie_tagging-perfit-4-seed0-to-product_rating"]
    assert (moved.trained_on, moved.task, moved.metric) == ("movie_tagging", "product_rating", "mae")
    pair = [module.Run.read(folder / name).config for name in (moved.name, "movie_tagging-perfit-4-seed0")]
    assert pair[0].rank == pair[1].rank


def test_transferred_shift_keeps_its_sites_positions_ranks_and_rate() -> None:
    (planned,) = plan(["perfit"], None, [*WORDS, "users.collective=2", "cohort=2"], [0])
    own = {"sites": [2], "positions": "f1+l1", "joint_private_init": False, "aggregation": "procrustes"}
    rate = planned.config.personal.model_copy(update={"lr": 0.5})
    planned = replace(planned, config=planned.config.model_copy(update=own | {"personal": rate}))
    moved = module._transferred(planned, "news_categorization", None, WORDS)
    assert moved.task == "news_categorization"
    # Everything that a run requires of the tensors it starts from.
    method = build_method(moved, read_shape(moved.backbone))
    assert fitting(moved, method) == fitting(planned.config, method)
    assert moved.personal.lr == 0.5
    of_its_own = load_config(None, [*WORDS, "task=news_categorization"])
    assert of_its_own.personal.max_tokens == moved.personal.max_tokens != planned.config.personal.max_tokens


def test_report_follows_from_the_rows(folder: Path, rows: pd.DataFrame) -> None:
    report = json.loads((folder / "cold_start.json").read_text())
    main = rows[rows.history.isna() & (rows.epochs == 2) & (rows.group == 0) & (rows.task == rows.trained_on)]
    own = main[(main.task == "movie_tagging") & (main.method == "perfit")]

    first = report["differences"][0]
    sides = [(first[side]["method"], first[side]["collective"]) for side in ("one", "other")]
    assert sides == [("perfit", 2), ("perfit", 4)]
    difference = own[own.collective == 2].value.mean() - own[own.collective == 4].value.mean()
    # Four target users with four questions each: the mean over users is the pooled accuracy.
    assert first["difference"] == pytest.approx(difference, abs=1e-5)

    newcomers = {(n["task"], n["method"], n["collective"]): n for n in report["newcomers"]}
    newcomer = newcomers["movie_tagging", "perfit", 2]
    two = own[own.collective == 2]
    assert newcomer["by_history"]["0"]["mean"] == pytest.approx(two.value_collective.mean(), rel=1e-5)
    assert newcomer["by_history"]["all"]["mean"] == newcomer["final"]["mean"]
    assert list(newcomer["by_history"]) == ["0", "3", "all"]
    assert newcomer["epochs_tried"] == [0, 1, 2]
    assert len(report["compositions"][0]["groups"]) == 2
    table = pd.read_csv(folder / "quality_by_number.csv").set_index(["collective", "method"])
    assert table.loc[(2, "perfit"), "movie_tagging accuracy"] == pytest.approx(two.value.mean(), rel=1e-5)
    assert table.loc[(2, "perfit"), "product_rating rmse"] > 0


def test_transfer_matrix_has_the_training_task_in_rows(rows: pd.DataFrame) -> None:
    matrix = transfer_matrix(rows, "perfit")
    moved = rows[(rows.trained_on == "movie_tagging") & (rows.task == "product_rating") & (rows.method == "perfit")]
    assert matrix.loc["movie_tagging", "product_rating"] == pytest.approx(moved.value.mean())
    home = rows[(rows.collective == 4) & (rows.method == "perfit") & (rows.task == "product_rating")]
    home = home[(home.trained_on == home.task) & home.history.isna() & (home.epochs == 2)]
    assert matrix.loc["product_rating", "product_rating"] == pytest.approx(home.value.mean())


def test_runs_of_a_comparison_are_reused_although_evaluated_midway(folder: Path) -> None:
    results = folder.parent
    words = [*WORDS, "users.collective=4", "rounds=2", "evaluate.every=1"]
    compared = complete(plan(["lora-p"], None, words, [0]), results / "compared", False, print)
    spec = replace(ASKED, collective=[4], methods=["lora-p"], tasks=["movie_tagging"], seeds=[0])
    spec = replace(spec, history=[], epochs=[], compositions=0, transfer=False)
    found, (run,) = run_all(spec, None, [*WORDS, "rounds=2"], results / "cold-again", print)
    assert run.folder == compared[0].folder
    assert found.value.tolist() == [compared[0].record.metrics["accuracy"]]
    # A comparison does not reuse a run without midway evaluations.
    (fresh,) = complete(plan(["lora-p"], None, [*words[:-1], "evaluate.every=2"], [0]), results / "x", False, print)
    assert fresh.folder == results / "x" / "lora-p-seed0"


def test_nothing_runs_again_after_the_folder_has_been_moved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.experiments.compare.simulate", None)
    shutil.copytree(folder, tmp_path / "moved")
    rows, _ = run_all(ASKED, None, WORDS, tmp_path / "moved", print)
    assert len(rows) == 48
    assert rows.trained_on.tolist() == pd.read_csv(folder / "cold_start.csv").trained_on.tolist()


def test_record_without_tensors_is_reused_but_cannot_start_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(ASKED, collective=[2], methods=["perfit"], tasks=[], seeds=[0], epochs=[], compositions=0)
    spec = replace(spec, transfer=False)
    other = tmp_path / "another checkout" / "cold-start"
    first, started = "movie_tagging-perfit-2-seed0", "movie_tagging-perfit-2-seed0-history3"
    for name in (first, started):
        shutil.copytree(folder / name, other / name, ignore=shutil.ignore_patterns("*.safetensors", "private"))
    with monkeypatch.context() as patched:
        patched.setattr(comparison_runs, "simulate", None)
        rows, _ = run_all(spec, None, WORDS, other, print)
    assert rows.folder.tolist() == [first, started]
    shutil.rmtree(other / started)
    with pytest.raises(InputError, match=r"other runs start from its shared tensors, which were not kept; choose"):
        run_all(spec, None, WORDS, other, print)
    again, _ = run_all(spec, None, WORDS, other.parent / "beside", print)
    assert again.value.tolist() == rows.value.tolist()
    assert not (other / first / "shared.safetensors").exists()


def test_rounds_of_a_method_file_apply_without_midway_evaluation(tmp_path: Path) -> None:
    toml = tmp_path / "longer.toml"
    toml.write_text('method = "strategies.perfit:PerFit"\nrounds = 3\n')
    spec = ColdStartSpec([2], [str(toml)], [], [0], [], [], 0, False)
    words = [word for word in WORDS if not word.startswith("rounds")]
    _, (run,) = run_all(spec, None, words, tmp_path / "x", print)
    assert (run.config.rounds, run.config.evaluate.midway_rounds(3)) == (3, set())
    toml.write_text('method = "strategies.perfit:PerFit"\ncohort = 1\n')
    words = [word for word in WORDS if not word.startswith("cohort")]
    with pytest.raises(InputError, match=r"longer\.toml: cohort=1, but cohort=8 for the others"):
        run_all(replace(spec, collective=[8]), None, words, tmp_path / "x", print)


def test_outdated_figures_are_removed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    for name in ("transfer.png", "cold_start-product_rating.svg", "notes.txt", "transfer.txt"):
        (tmp_path / "cold" / name).write_text("old")
    spec = ColdStartSpec([2], ["lora-p"], [], [0], [], [], 0, False)
    cold_start(spec, None, WORDS, "cold", tmp_path)
    assert {path.name for path in (tmp_path / "cold").glob("*.*g")} == {
        "cold_start-movie_tagging.png",
        "cold_start-movie_tagging.svg",
    }
    assert (tmp_path / "cold" / "notes.txt").is_file()
    assert (tmp_path / "cold" / "transfer.txt").is_file()
