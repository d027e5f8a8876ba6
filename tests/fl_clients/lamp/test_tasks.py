"""The six tasks: labels, markers, and synthetic users that can be read back."""

import json
from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import load_config
from configs.users import SyntheticConfig
from fl_clients.lamp.plain_form import plain_form
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.synthetic.generate import GENERATORS, write_synthetic
from fl_clients.lamp.tasks import TASKS, Task, find_task
from fl_clients.lamp.user import User

QUIET = SyntheticConfig(history=6, queries=3, noise=0)
# r⁽¹⁾, r⁽²⁾, sites, positions and epochs; then appendix D.5's batch sizes.
TABLE_9: dict[str, tuple[object, ...]] = {
    "news_categorization": (16, 32, [14, 15, 16], "f7+l7", 6, 16, 16),
    "movie_tagging": (32, 4, [14, 15], "f7+l7", 4, 16, 16),
    "product_rating": (32, 4, [14, 15, 16], "l7", 4, 2, 2),
    "news_headline": (32, 4, [14, 15, 16], "l7", 4, 16, 16),
    "scholarly_title": (32, 8, [15], "f7+l7", 4, 4, 4),
    "tweet_paraphrase": (32, 16, [14, 15], "f7+l7", 4, 16, 16),
}
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def synthetic(task: Task, folder: Path, users: int = 3, settings: SyntheticConfig = QUIET) -> list[User]:
    write_synthetic(task, users, 0, settings, folder)
    return list(find_source(folder, task).users())


@EVERY_TASK
def test_no_label_is_a_prefix_of_another(task: Task) -> None:
    # Otherwise the likelihood of a label without its end token would include that of a longer label.
    for label in task.labels:
        assert not any(other != label and other.startswith(label) for other in task.labels)


@EVERY_TASK
def test_every_task_has_synthetic_users_and_the_papers_settings(task: Task, tmp_path: Path) -> None:
    users = synthetic(task, tmp_path)
    assert [user.user_id for user in users] == ["s0", "s1", "s2"]
    assert all(len(user.queries) == 3 and len(user.history) + user.leaks == 6 for user in users)
    if task.labels:
        assert {pair.target for user in users for pair in user.history + user.queries} <= set(task.labels)
    paper = load_config(None, [f"task={task.name}", "preset=paper"])
    row = (paper.rank.shared, paper.rank.private, paper.sites, paper.positions, paper.personal.epochs)
    assert (*row, paper.local.batch_size, paper.personal.batch_size) == TABLE_9[task.name]
    assert (paper.local.lr, paper.personal.lr, paper.decoding) == (1e-4, 1e-4, "paper")


@EVERY_TASK
def test_more_synthetic_users_begin_with_the_same_users(task: Task, tmp_path: Path) -> None:
    assert synthetic(task, tmp_path / "few", 2) == synthetic(task, tmp_path / "many", 5)[:2]


@EVERY_TASK
def test_the_oracle_is_better_with_the_user_known(task: Task, tmp_path: Path) -> None:
    write_synthetic(task, 30, 0, QUIET, tmp_path)
    scores = json.loads((tmp_path / "oracle.json").read_text())["users"].values()
    known = sum(score["personalised"] for score in scores) / 90
    unknown = sum(score["collective"] for score in scores) / 90
    if task.kind == "ratings":
        assert known == 0 < unknown
    else:
        assert known == 1 > unknown


@EVERY_TASK
def test_without_deviation_all_users_are_alike(task: Task, tmp_path: Path) -> None:
    write_synthetic(task, 5, 0, QUIET.model_copy(update={"deviation": 0.0}), tmp_path)
    for score in json.loads((tmp_path / "oracle.json").read_text())["users"].values():
        assert score["personalised"] == score["collective"]


@EVERY_TASK
def test_a_question_of_another_task_is_refused(task: Task, tmp_path: Path) -> None:
    for other in TASKS.values():
        if other is not task:
            with pytest.raises(ValueError, match=f"not a question of {task.name}"):
                # The task's marker in the text of another task's question is not enough.
                task.question_source(GENERATORS[other.name].question.format(source=f"text {task.marker} more"))


def test_the_plain_form_of_a_synthetic_tweet_does_not_contain_its_style(tmp_path: Path) -> None:
    # Otherwise stage 2 would learn to copy the style from the source, but questions do not contain it.
    for user in synthetic(TASKS["tweet_paraphrase"], tmp_path, 20):
        for pair in user.history:
            words = set(pair.source.lower().split())
            assert not words & {"omg", "ugh", "yay", "hey", "wow", "so", "too", "way", "lol", "tbh", "smh", "idk"}
            assert len(words) >= 3


@pytest.mark.parametrize("rating", ["0", "6", "five", 3.5])
def test_a_rating_outside_the_scale_is_refused(rating: object, tmp_path: Path) -> None:
    task = TASKS["product_rating"]
    question = GENERATORS[task.name].question.format(source="Fine.")
    profile = [{"id": "h0", "text": "Good.", "score": rating}]
    (tmp_path / "dev_questions.json").write_text(json.dumps([{"id": "7", "input": question, "profile": profile}]))
    outputs = {"task": "LaMP_3", "golds": [{"id": "7", "output": "4"}]}
    (tmp_path / "dev_outputs.json").write_text(json.dumps(outputs))
    with pytest.raises(InputError, match=r"dev_questions.json: user '7', history item 'h0': .* is not a label"):
        list(find_source(tmp_path, task).users())
    outputs["golds"] = [{"id": "7", "output": rating}]
    (tmp_path / "dev_outputs.json").write_text(json.dumps(outputs))
    with pytest.raises(InputError, match=r"dev_outputs.json: gold '7' is"):
        list(find_source(tmp_path, task).users())


def test_a_rating_may_be_a_number(tmp_path: Path) -> None:
    assert TASKS["product_rating"].history_pair({"text": "Good.", "score": 4.0}) == ("Good.", "4")


def test_the_error_for_an_unknown_task_suggests_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'movie_tagging'"):
        find_task("movie_taging")


@pytest.mark.parametrize(
    ("tweet", "plain"),
    [
        (
            "@Bob I'm SOOO happyyyy!! omg http://x.y &amp; thats over the Bridge :)",
            "@Bob I am happy. And that is over the Bridge.",
        ),
        ("got a busy day today.. but im bored right now", "Got a busy day today. But I am bored right now."),
        ("Can u come 2nite???", "Can you come tonight?"),
        ("lol :) http://x.y", ""),
        ("NOT HERE #today", "NOT here today."),
    ],
)
def test_the_plain_form_leaves_out_the_style(tweet: str, plain: str) -> None:
    assert plain_form(tweet) == plain
