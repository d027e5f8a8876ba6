"""Invalid settings of a cold start are named before anything runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import load_config
from simulations.cli.main import app
from simulations.experiments import compare as comparison_runs
from simulations.experiments.cold_start import run as module
from simulations.experiments.cold_start.run import _plan_all, run_all
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.plan import fewer_users, plan_exchanged
from tests.conftest import TINY, movie, write_lamp

pytestmark = pytest.mark.integration
WORDS = [word for word in TINY if not word.startswith(("users.collective", "users.target"))] + ["users.target=4"]


def test_prompts_with_ones_own_texts_are_a_personal_part(cache: Path) -> None:
    spec = ColdStartSpec(collective=[2], methods=["rag"], seeds=[0], history=[3])
    ((main,), _, (later,)) = _plan_all(spec, None, WORDS)
    # A shorter history, and no number of epochs: nothing is trained.
    assert [planned.name for planned in later] == [f"{main.name}-history3"]
    ((origin, _),) = plan_exchanged([main])
    assert origin == main.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--collective", "2,2"], "--collective 2: given twice"),
        (["--collective", "0,2"], "--collective 0: expected at least 1"),
        (["--collective", "2,many"], "--collective 2,many: expected whole numbers"),
        (["--collective", "2", "--methods", ""], "--methods: expected at least one"),
        (["--collective", "2", "--seeds", ""], "--seeds: expected at least one"),
        (["--collective", "2", "--seeds", "0;1"], "--seeds 0;1: expected whole numbers"),
        (["--collective", "2", "--methods", "perfit,perfit"], "--methods perfit: given twice"),
        (["--collective", "2", "--methods", "perfits"], "perfit"),
        (
            ["--collective", "2", "--history", "99,all"],
            "--history 99: movie_tagging, seed 0: users.target_history=99: no target user has",
        ),
        (["--collective", "2", "--history", "3,3"], "--history 3: given twice"),
        (["--collective", "2", "--history", "all,all"], "--history all: given twice"),
        (["--collective", "1_0"], "--collective 1_0: expected whole numbers"),
        (["--collective", "2", "--methods", "lora-c", "--history", "99"], "--history: none of lora-c has a stage 2"),
        (["--collective", "2", "--methods", "lora-c", "--history", "3"], "--history: none of lora-c has a stage 2"),
        (["--collective", "2", "--history", "-1"], "--history -1: expected at least 0"),
        (["--collective", "2", "--epochs", "1,1"], "--epochs 1: given twice"),
        (["--collective", "2", "--tasks", "movie_taging"], "task: unknown task"),
        (["--collective", "2", "--seeds", "0,0"], "--seeds 0: given twice"),
        (["--collective", "2", "--transfer"], "--transfer: expected at least two tasks"),
        (["--collective", "2", "--history", "8"], "--history 8: no newcomer has more items (seed 0); use `all`"),
        (["--collective", "2", "--methods", "perfit, lora-c, perfit"], "--methods perfit: given twice"),
        (["--collective", "2", "--methods", "my own.toml"], "method='my own': expected at most 200 letters, digits"),
        (["--collective", "2", "--methods", "perfit,over.toml"], "over.toml: a cold start draws its own users"),
        (["--collective", "2", "users.overlap=true"], "a cold start draws its own users, without users.overlap"),
        (
            ["--collective", "2", "evaluate.every=1"],
            "evaluate.every=1: a cold start evaluates newcomers only after",
        ),
        (["--collective", "2", "users.collective=5"], "users.collective=5: a cold start uses `collective` instead"),
        (["--collective", "2", "--tasks", "movie_tagging", "task=product_rating"], "a cold start uses `tasks` instead"),
        (
            ["--collective", "2", "users.target_history=3"],
            "users.target_history=3: a cold start uses `history` instead",
        ),
        (["--collective", "2", "--tasks", "movie_tagging,product_rating", "users.source=x"], "holds one task's data"),
        (
            ["--collective", "2", "--methods", "lora-p", "--compositions", "3"],
            "--compositions: none of lora-p has a stage 1",
        ),
        (
            ["--collective", "2", "users.collective_history=99"],
            "movie_tagging with 2 collective users: users.collective_history=99: no collective user has more than 8",
        ),
        (["--collective", "2", "--compositions", "1"], "--compositions 1: expected at least 2 groups"),
        (["--collective", "2", "--history", "5,alll"], "--history 5,alll: expected whole numbers or all, such as"),
        (["--collective", "2", "seed=3"], "seed=3: a cold start uses `seeds` instead"),
        (["--collective", "2", "method=oppu"], "method=oppu: a cold start uses `methods` instead"),
        (["--collective", "2", "start_from=x"], "start_from=x: a cold start counts the bytes of stage 1"),
        # A method file's section for one task is checked for that task.
        (["--collective", "2", "--tasks", "movie_tagging,product_rating", "--methods", "rated.toml"], "users.overlap"),
    ],
)
def test_invalid_settings_are_named_before_anything_runs(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    method = 'method = "strategies.perfit:PerFit"\n'
    rated = "[tasks.product_rating.users]\noverlap = true\n"
    for name, more in (("my own", ""), ("over", "[users]\noverlap = true\n"), ("rated", rated)):
        (tmp_path / f"{name}.toml").write_text(method + more)
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, ["cold-start", "--results", str(tmp_path), *options, *WORDS], catch_exceptions=False)
    assert message in caught.value.as_option()
    assert not list(tmp_path.glob("*/*/run.json"))


def test_negative_number_of_groups_is_refused() -> None:
    with pytest.raises(InputError, match=r"compositions=-3: expected at least 2 groups, or 0"):
        ColdStartSpec([2], ["perfit"], [], [0], [], [], -3, False).check()


def test_too_many_collective_users_are_refused(tmp_path: Path) -> None:
    source = write_lamp(
        tmp_path / "lamp",
        [movie(str(number)) for number in range(6)],
        [{"id": str(number), "output": "comedy"} for number in range(6)],
    )
    spec = ColdStartSpec([2, 9], ["perfit"], [], [0], [], [], 0, False)
    words = [*WORDS, f"users.source={source}"]
    with pytest.raises(InputError, match=r"users.collective=9: .* has only 2 such users"):
        run_all(spec, None, words, tmp_path / "x", print)


def test_cohort_is_limited_by_the_number_of_users(tmp_path: Path) -> None:
    spec = ColdStartSpec([2, 5], ["perfit"], [], [0], [], [], 0, False)
    words = [word for word in WORDS if not word.startswith("cohort")]
    # A cohort larger than the config's number of users is allowed, since the spec sets that number.
    _, runs = run_all(spec, None, [*words, "cohort=64"], tmp_path / "x", print)
    assert [run.config.cohort for run in runs] == [2, 5]


def test_users_who_judge_and_the_least_replies_fit_fewer_users() -> None:
    config = load_config(None, ["users.collective=20", "users.held_out=3", "cohort=8", "faults.min_replies=6"])
    assert fewer_users(config, 20) == ["users.collective=20", "cohort=8"]
    assert fewer_users(config, 8) == ["users.collective=8", "cohort=5", "faults.min_replies=5"]
    with pytest.raises(InputError, match=r"users.held_out=3 leaves none of 3 collective users to train"):
        fewer_users(config, 3)


def test_methods_with_one_name_or_other_users_are_refused(tmp_path: Path) -> None:
    spec = ColdStartSpec([2], ["perfit", str(tmp_path / "perfit.toml")], [], [0], [], [], 0, False)
    text = 'method = "strategies.perfit:PerFit"\n[users.synthetic]\nhistory = 5\n'
    for name in ("perfit", "other"):
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(InputError, match="would both be called perfit"):
        run_all(spec, None, WORDS, tmp_path / "x", print)
    words = [word for word in WORDS if "synthetic.history" not in word]
    other = replace(spec, methods=["perfit", str(tmp_path / "other.toml")])
    with pytest.raises(InputError, match=r"perfit and other cannot be compared: users \(data_sha256\)"):
        run_all(other, None, words, tmp_path / "x", print)


def test_too_few_users_for_the_groups_are_refused(tmp_path: Path) -> None:
    golds = [{"id": str(number), "output": "comedy"} for number in range(9)]
    source = write_lamp(tmp_path / "lamp", [movie(str(number)) for number in range(9)], golds)
    spec = ColdStartSpec([2], ["perfit"], [], [0], [], [], 3, False)
    message = (
        r"compositions=3: 3 disjoint groups of 2 users, movie_tagging: "
        r".* has only 1 such users of \d+ users in users.group=2"
    )
    with pytest.raises(InputError, match=message):
        run_all(spec, None, [*WORDS, f"users.source={source}"], tmp_path / "x", print)


def test_a_cold_start_with_noise_is_planned_for_its_own_numbers_of_users() -> None:
    spec = ColdStartSpec([2, 4], ["perfit"], [], [0], [], [], 0, False)
    words = [*WORDS, "privacy.kind=central", "privacy.noise_multiplier=1", "users.collective=9"]
    planned, _, _ = _plan_all(spec, None, [*words, "privacy.delta=0.1"])
    assert [one.config.users.collective for one in planned] == [2, 4]
    with pytest.raises(
        InputError, match=r"with 4 collective users: perfit: privacy.delta=0.3: expected less than 1/4, one"
    ):
        _plan_all(spec, None, [*words, "privacy.delta=0.3"])


def test_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    spec = ColdStartSpec([2], ["perfit"], [], [0], [], [], 0, False)
    (tmp_path / "compared-before").mkdir()
    (tmp_path / "compared-before" / "compare.json").write_text("{}")
    with pytest.raises(InputError, match="is a comparison; choose another name"):
        run_all(spec, None, WORDS, tmp_path / "compared-before", print)
    (tmp_path / "cold-before").mkdir()
    (tmp_path / "cold-before" / "cold_start.json").write_text("{}")
    with pytest.raises(InputError, match="is a cold start; choose another name"):
        comparison_runs.compare(["perfit"], None, WORDS, [0], "cold-before", tmp_path)


def test_transfer_to_another_backbone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = module.load_config

    def other_backbone(toml: Path | None, words: list[str]) -> object:
        config = load(toml, words)
        other = config.task == "product_rating" and "cohort=2" in words
        return config.model_copy(update={"backbone": "smollm2-135m"}) if other else config

    monkeypatch.setattr(module, "load_config", other_backbone)
    spec = ColdStartSpec([2], ["perfit"], ["movie_tagging", "product_rating"], [0], [], [], 0, True)
    with pytest.raises(InputError, match="movie_tagging has backbone 'tiny', product_rating 'smollm2-135m'"):
        run_all(spec, None, WORDS, tmp_path / "x", print)
