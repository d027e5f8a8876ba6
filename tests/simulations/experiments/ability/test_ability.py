"""General ability: the language model agrees with lm-eval's own for Hugging Face models, and items are paired."""

import json
from pathlib import Path

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.models.huggingface import HFLM
from typer.testing import CliRunner

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from simulations.cli.main import app
from simulations.experiments.ability.language_model import ServedLanguageModel, mean_metric
from simulations.experiments.ability.questions import PASSAGES, knowledge
from simulations.experiments.ability.run import ability
from simulations.run.served import load_served_model
from simulations.run.simulate import simulate
from strategies.metrics.points import EvaluationPoint
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration
LEARNS = ("local.lr=0.02", "personal.lr=0.02", "personal.epochs=10")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    simulate(tiny_config(*LEARNS), "learned", folder)
    simulate(tiny_config("method=lora-c", "settings.rank=2", "settings.alpha=2"), "no-private-part", folder)
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A task of one's own, as lm-eval's guide describes it."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    items = [{"question": f"Is {number} even?", "answer": "yes" if number % 2 == 0 else "no"} for number in range(6)]
    (folder / "even.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "even.yaml").write_text(
        f"task: even\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'even.jsonl'}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: ["yes", "no"]\n'
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return folder


def requests(kind: str, *arguments: tuple[object, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def test_the_bare_backbone_scores_as_lm_evals_own_model(results: Path) -> None:
    served = load_served_model(results / "learned", None)
    ours = ServedLanguageModel(served, EvaluationPoint.BASE)
    theirs = HFLM(served.backbone.model, tokenizer=served.backbone.tokenizer, batch_size=1, device="cpu")
    pairs = requests(
        "loglikelihood", ("The capital of France is", " Paris"), ("2 + 2 =", " 4"), ("A space ", "ends it")
    )
    for mine, reference in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert mine[0] == pytest.approx(reference[0], abs=1e-4)
        assert mine[1] == reference[1]
    texts = requests("loglikelihood_rolling", (PASSAGES[0],))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)


def test_a_text_longer_than_the_backbone_allows_is_read_in_windows(results: Path) -> None:
    served = load_served_model(results / "learned", None)
    ours = ServedLanguageModel(served, EvaluationPoint.BASE)
    ours._longest = 20
    (found,) = ours.loglikelihood_rolling(requests("loglikelihood_rolling", (PASSAGES[0],)))
    assert np.isfinite(found)
    assert found < 0


def test_a_begin_token_precedes_every_context_and_nothing_exceeds_the_backbone(results: Path) -> None:
    ours = ServedLanguageModel(load_served_model(results / "learned", None), EvaluationPoint.BASE)
    ours._begin, ours._longest = [7], 12
    short, long = ours._example("Hi", " you"), ours._example("A long context" * 5, " a long continuation" * 5)
    assert short.prompt == [7, *ours._encode("Hi")]
    assert long.prompt[0] == 7
    assert len(long.answer) == 11
    assert ours._example("", "x").prompt == [7]
    (answer,) = ours.generate_until(requests("generate_until", ("Hi", {"max_gen_toks": 5000, "until": ["\n"]})))
    assert "\n" not in answer


def test_only_the_context_is_a_prompt(results: Path) -> None:
    served = load_served_model(results / "learned", "s0")
    pair = requests("loglikelihood", ("The capital of France is", " Paris"))
    scores = [ServedLanguageModel(served, point).loglikelihood(pair)[0][0] for point in EvaluationPoint]
    assert len({round(score, 6) for score in scores}) == 3


def test_items_are_paired_and_users_averaged(results: Path) -> None:
    found = ability(results / "learned", "a", results, users=2)
    users = RunFolder(results / "learned").users(["user_id", "partition"]).to_pylist()
    assert found.users == [row["user_id"] for row in users if row["partition"] >= 6][:2]
    texts = next(task for task in found.tasks if task.task == "texts")
    bare, *theirs = (
        ServedLanguageModel(load_served_model(results / "learned", user), point).bits_per_byte(PASSAGES)
        for user, point in (
            (None, EvaluationPoint.BASE),
            *((user, EvaluationPoint.PERSONALISED) for user in found.users),
        )
    )
    assert texts.base == pytest.approx(np.mean(bare))
    assert texts.personalised is not None
    assert texts.personalised.mean == pytest.approx(np.mean(theirs) - np.mean(bare))
    low, high = texts.personalised.interval
    assert low <= texts.personalised.mean <= high
    assert json.loads((results / "a" / "ability.json").read_text())["tasks"][0]["items"] == len(knowledge())


def test_a_method_without_private_part_has_no_users(results: Path) -> None:
    found = ability(results / "no-private-part", "b", results, limit=3)
    assert found.users == []
    assert [(task.items, task.personalised) for task in found.tasks] == [(3, None), (3, None)]


def test_a_task_whose_score_is_no_mean_is_refused_before_work(results: Path, tasks: Path) -> None:
    text = (tasks / "even.yaml").read_text().replace("task: even", "task: surprise")
    text = text.replace("multiple_choice", "loglikelihood_rolling").replace(
        "doc_to_target: answer", 'doc_to_target: ""'
    )
    metric = "metric_list:\n  - metric: bits_per_byte\n"
    (tasks / "surprise.yaml").write_text(text.partition("metric_list:")[0] + metric)
    with pytest.raises(InputError, match=r"tasks=surprise: its score \(bits_per_byte\) is not a mean over items"):
        ability(results / "learned", "f", results, tasks=["surprise"], include=tasks)


def test_the_metric_is_the_first_that_is_a_mean() -> None:
    class Task:
        def aggregation(self) -> dict[str, object]:
            return {"perplexity": max, "acc": mean}

    assert mean_metric(Task()) == "acc"


def test_tasks_of_ones_own(results: Path, tasks: Path) -> None:
    found = ability(results / "learned", "c", results, users=1, tasks=["even"], include=tasks)
    assert [(task.task, task.metric, task.items) for task in found.tasks] == [("even", "acc", 6)]


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("doc_to_text", '"{{nothing.here}}"', "tasks=odd: its data do not fit it: 'nothing' is undefined"),
        ("data", "", "tasks=odd: its data do not fit it: they have no item"),
    ],
)
def test_a_task_that_does_not_fit_its_data_is_named(
    field: str, wrong: str, message: str, results: Path, tasks: Path
) -> None:
    lines = (tasks / "even.yaml").read_text().replace("task: even", "task: odd").splitlines()
    if field == "data":
        (tasks / "none.jsonl").write_text("")
        lines = [line.replace("even.jsonl", "none.jsonl") for line in lines]
    else:
        lines = [f"{field}: {wrong}" if line.startswith(field) else line for line in lines]
    (tasks / "odd.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        ability(results / "learned", "g", results, tasks=["odd"], include=tasks)
    assert not (results / "g").exists()


def test_a_run_record_is_not_written_into(results: Path) -> None:
    with pytest.raises(InputError, match="is a run record; choose another name"):
        ability(results / "learned", "learned", results)


def test_an_unknown_task_and_a_missing_folder_are_refused(results: Path, tasks: Path) -> None:
    with pytest.raises(InputError, match="tasks=evens: neither lm-eval nor --include has this task"):
        ability(results / "learned", "d", results, tasks=["evens"], include=tasks)
    with pytest.raises(InputError, match=r"include=.*nowhere: not a folder"):
        ability(results / "learned", "d", results, include=tasks / "nowhere")
    assert not (results / "d").exists()


def test_every_question_has_one_right_answer() -> None:
    items = knowledge()
    assert items == knowledge()
    assert len({item["question"] for item in items}) == len(items) == 83
    assert all(len({*item["choices"]}) == 4 for item in items)
    places = [item["gold"] for item in items]
    assert max(places.count(place) for place in range(4)) < len(items) / 3


def test_the_command_prints_a_table(results: Path) -> None:
    done = CliRunner().invoke(
        app, ["ability", "learned", "--users", "1", "--limit", "4", "--results", str(results), "--name", "e"]
    )
    assert done.exit_code == 0, done.output
    assert "knowledge, acc" in done.output
    assert "texts, bits/byte" in done.output
