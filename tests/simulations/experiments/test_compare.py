"""Comparisons: what is run, reused and refused, and bytes computed by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from configs.errors import InputError, RunFailed
from simulations.cli.main import app
from simulations.experiments import compare as module
from simulations.experiments.comparable import Run, check_comparable
from simulations.experiments.compare import complete, write_comparison
from simulations.experiments.comparison.curves import curve
from simulations.experiments.plan import plan
from simulations.run.simulate import simulate
from tests.conftest import TINY, movie, tiny_config, write_lamp

pytestmark = pytest.mark.integration
METHODS = ["perfit", "lora-c", "lora-p"]


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("results") / "first"
    planned = plan(METHODS, None, [*TINY, "rounds=4"], [0, 1])
    runs = complete(planned, folder, False, quiet)
    write_comparison(runs, "perfit", folder)
    return folder, runs


def test_rewritten_files_have_the_same_bytes(compared: tuple[Path, list[Run]]) -> None:
    folder, runs = compared
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    write_comparison(runs, "perfit", folder)
    assert len(before) == 9
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_duplicate_run_is_refused(compared: tuple[Path, list[Run]]) -> None:
    _, runs = compared
    with pytest.raises(InputError, match=r"perfit-seed0 and .*perfit-seed0: both are perfit with seed 0"):
        check_comparable([*runs, runs[0]])


def test_comparison_writes_its_files_and_runs(compared: tuple[Path, list[Run]]) -> None:
    folder, runs = compared
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{m}-seed{s}" for m in METHODS for s in (0, 1)} | {
        ".lock",
        "compare.json",
        "curves.parquet",
        "curves.png",
        "curves.svg",
        "curves.pdf",
        "seconds.png",
        "seconds.svg",
        "seconds.pdf",
    }
    report = json.loads((folder / "compare.json").read_text())
    assert [row["method"] for row in report["methods"]] == METHODS
    quality = report["methods"][1]["quality"]
    values = [run.record.metrics["accuracy"] for run in runs if run.method == "lora-c"]
    assert quality["per_seed"] == values
    assert quality["mean"] == pytest.approx(np.mean(values))
    assert quality["std"] == pytest.approx(np.std(values, ddof=1))
    assert report["methods"][0]["against"] is None


def test_curve_counts_stage_1_and_one_download_per_target_user(compared: tuple[Path, list[Run]]) -> None:
    folder, runs = compared
    line = curve(runs[0])
    # Four rounds, evaluated after 1 and 2; the last point is the personalisation.
    assert line["round"].tolist() == [1, 2, 4]
    ledger = pd.read_parquet(runs[0].folder / "ledger.parquet")
    train = ledger[ledger.phase == "train"].pivot_table("message_bytes", "round", "direction", "sum")
    targets = ledger[(ledger.phase == "personalize") & (ledger.direction == "down")].message_bytes.sum()
    assert line.bytes_up.tolist() == train.up.cumsum().loc[[1, 2, 4]].tolist()
    assert line.bytes_down.iloc[-1] == train.down.sum() + targets
    assert line.bytes_total_per_client.iloc[-1] == line.bytes_total.iloc[-1] / 9
    written = pd.read_parquet(folder / "curves.parquet")
    assert list(written.columns[:3]) == ["method", "seed", "round"]
    assert len(written) == 2 * (3 + 3 + 1)


@pytest.mark.parametrize(
    ("method", "words"), [("stylevector", []), ("lora-c", ["privacy.kind=central", "privacy.target_epsilon=15"])]
)
def test_a_run_whose_stage_1_ended_early_is_compared(method: str, words: list[str], tmp_path: Path) -> None:
    noise = [*words, "privacy.noise_multiplier=1"] if words else []
    runs = complete(plan(["perfit", method], None, [*TINY, "rounds=4", *noise], [0]), tmp_path, False, quiet)
    found = write_comparison(runs, "perfit", tmp_path)
    row = found.methods[1]
    assert row.against is not None
    assert row.against.users == runs[1].record.users.target
    assert row.bytes.in_all > 0
    spent = runs[1].record.privacy
    assert spent.rounds < 4 if spent else not noise


def test_completed_runs_are_reused_from_another_comparison(
    compared: tuple[Path, list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = compared
    monkeypatch.setattr(module, "simulate", None)
    words = [*TINY, "rounds=4", "engine=ray", "activations_mb=0"]
    again = complete(plan(METHODS, None, words, [0, 1]), folder.parent / "second", False, quiet)
    assert [run.folder for run in again] == [run.folder for run in runs]


def test_interrupted_comparison_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(["perfit", "lora-c"], None, [*TINY, "rounds=1"], [0])
    done: list[str] = []

    def stop_at_the_second(config: object, name: str, *args: object, **options: object) -> object:
        done.append(name)
        if done == ["perfit-seed0", "lora-c-seed0"]:
            raise KeyboardInterrupt
        return simulate(config, name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "simulate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        complete(planned, tmp_path / "x", False, quiet)
    complete(planned, tmp_path / "x", False, quiet)
    assert done == ["perfit-seed0", "lora-c-seed0", "lora-c-seed0"]


def test_failed_run_is_named_and_not_compared(tmp_path: Path) -> None:
    planned = plan(["perfit"], None, [*TINY, "rounds=1", "local.lr=1e30", "local.epochs=9"], [0])
    with pytest.raises(RunFailed, match="perfit-seed0: round 1: 3 of 3 clients failed"):
        complete(planned, tmp_path / "x", False, quiet)
    with pytest.raises(InputError, match="this run's status is failed"):
        Run.read(tmp_path / "x" / "perfit-seed0")


def test_another_config_in_the_same_folder_is_refused(compared: tuple[Path, list[Run]]) -> None:
    folder, _ = compared
    with pytest.raises(InputError, match=r"local\.lr: 0\.004 vs\. 0\.5"):
        complete(plan(["perfit"], None, [*TINY, "rounds=4", "local.lr=0.5"], [0]), folder, False, quiet)


@pytest.mark.parametrize(
    ("methods", "words", "seeds", "message"),
    [
        (["perfit", "opu"], [], [0], "did you mean 'oppu'"),
        (["perfit", "perfit"], [], [0], "method perfit is given twice"),
        (["perfit"], [], [0, 1, 0], "seeds: 0 is given twice"),
        ([], [], [0], "at least one method"),
        (["perfit", "oppu"], ["sites=[9]"], [0], "perfit: sites"),
        (["perfit"], ["seed=3"], [0], "seed=3: a comparison takes its seeds as arguments"),
        (["perfit"], ["evaluate.point=collective"], [0], "the quality after personalisation"),
        (["lora-c"], ["settings.rank=eight"], [0], "lora-c: settings.rank='eight': input should be a valid integer"),
        (["lora-c"], ["settings.rank=2.5"], [0], "settings.rank=2.5: input should be a valid integer"),
        (["fdlora"], ["settings.fusion_penalty=nan"], [0], "settings.fusion_penalty=nan: input should be a finite"),
        (["fdlora"], ["settings.outer_lr=inf"], [0], "settings.outer_lr=inf: input should be a finite number"),
        (["lora-c"], ["settings.targets=q_proj"], [0], "settings.targets='q_proj': input should be a valid list"),
        (["lora-c"], ["settings.alpha=0"], [0], "settings.alpha=0: expected at least 1"),
        (["../tasks/movie_tagging"], [], [0], "unknown method"),
        (["oppu"], ['settings.targets=["c_attn"]'], [0], "oppu: settings.targets: no module 'c_attn'"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    methods: list[str], words: list[str], seeds: list[int], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        plan(methods, None, [*TINY, *words], seeds)
    assert message in str(caught.value)


def test_run_records_are_compared_by_name_or_folder(compared: tuple[Path, list[Run]]) -> None:
    folder, _ = compared
    words = ["first/lora-c-seed0", str(folder / "perfit-seed0"), "--name", "named", "--results", str(folder.parent)]
    done = CliRunner().invoke(app, ["compare", *words, "--json"], catch_exceptions=False)
    assert [row["method"] for row in json.loads(done.stdout)["methods"]] == ["lora-c", "perfit"]
    for word, reason in (
        ("first/lora-c-sed0", "no run record of that name in .*; did you mean 'first/lora-c-seed0'"),
        ("first", r"an experiment of 6 runs; expected one of them \(first/lora-c-seed0, "),
    ):
        with pytest.raises(InputError, match=f"{word}: {reason}"):
            CliRunner().invoke(app, ["compare", word, *words[2:], "--overwrite"], catch_exceptions=False)


def test_method_name_wins_over_a_folder_of_that_name(
    compared: tuple[Path, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora-c").mkdir()
    folder = str(compared[0] / "perfit-seed0")
    words = [[*TINY, "lora-c", "rounds=9.5"], [folder, "lora-c"], [folder, "lora-c-sed0"]]
    messages = ["rounds=9.5", "lora-c is not a run record under", "lora-c-sed0 is not a run record under"]
    for given, message in zip(words, messages, strict=True):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["compare", *given, "--results", str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["users.synthetic.history=9"], "users (data_sha256)"),
        (["users.target=4"], "users.target is 3 in one and 4 in the other"),
        (["cohort=2"], "cohort"),
        (["decoding=paper"], "decoding is 'deterministic' in one and 'paper' in the other"),
        (["seed=5"], "perfit has seeds [0], lora-c has [5]; use the same for both"),
    ],
)
def test_runs_that_differ_in_more_than_the_method_are_refused(
    compared: tuple[Path, list[Run]], words: list[str], message: str, tmp_path: Path
) -> None:
    _, runs = compared
    simulate(tiny_config("rounds=1", "method=lora-c", *words), "other", tmp_path)
    with pytest.raises(InputError) as caught:
        write_comparison([runs[0], Run.read(tmp_path / "other")], "perfit", tmp_path / "x")
    assert message in str(caught.value)


def test_a_comparison_of_records_does_not_join_another_experiment(
    compared: tuple[Path, list[Run]], tmp_path: Path
) -> None:
    (tmp_path / "sweep.json").touch()
    with pytest.raises(InputError, match=r"is a sweep; choose another name"):
        write_comparison(compared[1], "perfit", tmp_path)


@pytest.mark.parametrize(
    ("word", "message"),
    [("personal.lr=0.5", "personal.lr: 0.001 vs. 0.5"), ("rank.shared=3", "rank.shared: 4 vs. 3")],
)
def test_runs_of_one_method_must_differ_only_in_the_seed(
    compared: tuple[Path, list[Run]], word: str, message: str
) -> None:
    first, second = (run for run in compared[1] if run.method == "perfit")
    midway = ("evaluate.every=halving", "evaluate.point=personalised")
    other = replace(second, config=tiny_config(*midway, "rounds=4", "seed=1", word))
    with pytest.raises(InputError, match="seed1 are both perfit, but differ in more than the seed") as caught:
        check_comparable([first, other])
    assert message in str(caught.value)


def test_run_started_from_another_run_is_not_compared(compared: tuple[Path, list[Run]]) -> None:
    _, runs = compared
    started = replace(runs[0], config=runs[0].config.model_copy(update={"start_from": str(runs[1].folder)}))
    with pytest.raises(InputError, match="its stage 1 comes from another run"):
        check_comparable([started])
    with pytest.raises(InputError, match="counts the bytes of stage 1"):
        plan(["perfit"], None, [*TINY, f"start_from={runs[0].folder}"], [0])


def test_user_defined_methods_are_compared_with_their_settings(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "halved_method.py").write_text(
        "from strategies.lora_c import LoraC\n\nclass Halved(LoraC):\n    name = 'halved'\n"
    )
    settings = 'rank = 2\nalpha = 2\ndropout = 0.0\ntargets = ["q_proj"]\nblocks = []\n'
    (tmp_path / "small.toml").write_text(f'method = "halved_method:Halved"\n[settings]\n{settings}')
    planned = plan(["perfit", str(tmp_path / "small.toml")], None, [*TINY, "rounds=1"], [0])
    assert [each.method for each in planned] == ["perfit", "small"]
    runs = complete(planned, tmp_path / "x", False, quiet)
    # q in 4 blocks, 2·(16 + 16) per block.
    assert runs[1].record.params.shared == 4 * 2 * 32
    report = write_comparison(runs, "perfit", tmp_path / "x")
    assert [row.method for row in report.methods] == ["perfit", "small"]

    shutil.copy(tmp_path / "small.toml", tmp_path / "other" / "small.toml")
    with pytest.raises(InputError, match="would both be called small; rename"):
        plan([str(tmp_path / "small.toml"), str(tmp_path / "other" / "small.toml")], None, TINY, [0])
    with (tmp_path / "halved_method.py").open("a") as file:
        file.write("    # changed\n")
    planned = plan([str(tmp_path / "small.toml")], None, [*TINY, "rounds=1"], [0])
    with pytest.raises(InputError, match=r"halved_method\.py has changed since"):
        complete(planned, tmp_path / "x", False, quiet)
    (run,) = complete(planned, tmp_path / "y", False, quiet)
    assert run.folder == tmp_path / "y" / "small-seed0"


def test_methods_evaluated_differently_are_refused_before_anything_runs(tmp_path: Path) -> None:
    settings = 'rank = 2\nalpha = 2\ndropout = 0.0\ntargets = ["q_proj"]\nblocks = []\n'
    (tmp_path / "other.toml").write_text(
        f'method = "strategies.lora_c:LoraC"\ndecoding = "paper"\n[settings]\n{settings}'
    )
    with pytest.raises(InputError, match="decoding is 'deterministic' in one and 'paper' in the other"):
        plan(["perfit", str(tmp_path / "other.toml")], None, TINY, [0])
    words = [*TINY, "preset=paper"]
    assert {each.config.decoding for each in plan(["lora-c", "oppu"], None, words, [0])} == {"paper"}


def test_second_command_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with FileLock(tmp_path / "x" / ".lock"), pytest.raises(InputError, match="another command is using it"):
        complete(plan(["perfit"], None, TINY, [0]), tmp_path / "x", False, quiet)


def test_run_is_not_reused_if_its_users_have_changed(tmp_path: Path) -> None:
    def films(genre: str) -> None:
        golds = [{"id": str(n), "output": genre} for n in range(9)]
        write_lamp(tmp_path / "films", [movie(str(n), f"Film {n}.") for n in range(9)], golds)

    words = [*TINY, f"users.source={tmp_path / 'films'}", "rounds=1"]
    films("comedy")
    complete(plan(["perfit"], None, words, [0]), tmp_path / "x", False, quiet)
    films("action")
    with pytest.raises(InputError, match="its users have changed since"):
        complete(plan(["perfit"], None, words, [0]), tmp_path / "x", False, quiet)
