"""The supported layouts of LaMP files, and the ways in which files can be malformed."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from fl_clients.lamp.readers import find_source, recognise_task
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import User
from tests.conftest import movie, write_lamp

MOVIES, TWEETS = find_task("movie_tagging"), find_task("tweet_paraphrase")
OPPU = ("user_others.json", "user_top_100_history.json", "user_top_100_history_label.json")
GOLD = [{"id": "1", "output": "comedy"}]
SHARED = Path(__file__).parents[4] / "shared" / "lamp"


def read(folder: Path) -> list[User]:
    return list(find_source(folder, MOVIES).users())


def test_in_official_files_every_question_is_a_user(tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [movie("1", "A fight.")], GOLD))
    assert user.user_id == "1"
    assert [(pair.source, pair.target) for pair in user.history] == [
        ("Joke 0 of 1.", "comedy"),
        ("Joke 1 of 1.", "comedy"),
    ]
    assert [(pair.item_id, pair.source, pair.target) for pair in user.queries] == [("1", "A fight.", "comedy")]


def test_records_with_the_same_user_id_are_joined(tmp_path: Path) -> None:
    questions = [{**movie("1"), "user_id": "u"}, {**movie("2", "Robots.", history=0), "user_id": "u"}]
    (user,) = read(write_lamp(tmp_path, questions, [*GOLD, {"id": "2", "output": "sci-fi"}]))
    assert (user.user_id, len(user.history), [query.target for query in user.queries]) == (
        "u",
        2,
        ["comedy", "sci-fi"],
    )


def test_a_leak_is_dropped_from_the_history_and_counted(tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [movie("1", "Joke 1 of 1.")], GOLD))
    assert ([pair.source for pair in user.history], user.leaks) == (["Joke 0 of 1."], 1)


def test_oppu_files_give_roles(tmp_path: Path) -> None:
    item = {"id": "a", "tag": "comedy", "description": "x"}
    question = {"id": "1", "input": "Which tag does this movie relate to? description: y"}
    (tmp_path / "user_others.json").write_text(json.dumps([{"user_id": "c", "profile": [item]}]))
    targets = [{"user_id": "t", "profile": [item], "query": [question]}]
    (tmp_path / "user_top_100_history.json").write_text(json.dumps(targets))
    labels = {"task": "LaMP_2M", "golds": GOLD}
    (tmp_path / "user_top_100_history_label.json").write_text(json.dumps(labels))
    assert [(user.user_id, user.pool, len(user.queries)) for user in read(tmp_path)] == [
        ("c", "collective", 0),
        ("t", "target", 1),
    ]


def broken(**change: Any) -> list[dict[str, Any]]:
    return [{**movie("1"), **change}]


BAD: dict[str, tuple[Any, Any, str]] = {
    "broken json": ('[{"id": "1",\n "input": }]', GOLD, r"dev_questions.json, line 2: broken JSON"),
    "not objects per line": (
        "id,input",
        GOLD,
        r"line 1: broken JSON: expected a list of objects, or an object per line",
    ),
    "not objects": ("[1]", GOLD, r"expected an object"),
    "cut short": ('[{"id": "1"}', GOLD, r"expected ',' or '\]'|needs 'id'"),
    "broken golds": ([movie("1")], '{"task": "LaMP_2", ', r"dev_outputs.json, line 1: broken JSON"),
    "golds of another task": (
        [movie("1")],
        json.dumps({"task": "LaMP_7", "golds": []}),
        r"golds of task 'LaMP_7'",
    ),
    "golds without ids": ([movie("1")], [{"output": "comedy"}], r"dev_outputs.json: expected"),
    "gold outside the labels": (
        [movie("1")],
        [{"id": "1", "output": "boring"}],
        r"gold '1' is 'boring', not a label",
    ),
    "a key twice": (
        [movie("1")],
        '[{"id": "1", "output": "comedy", "output": "action"}]',
        r"the key 'output' stands twice",
    ),
    "an item that is none": (broken(profile=[None]), GOLD, r"history item 1: expected an object, not None"),
    "gold twice": ([movie("1")], GOLD * 2, r"gold '1' occurs twice"),
    "gold without question": ([movie("1")], [*GOLD, {"id": "9", "output": "comedy"}], r"gold for '9'"),
    "question without gold": ([movie("1"), movie("2")], GOLD, r"question '2': no gold"),
    "question twice": (
        [movie("1"), movie("2"), movie("1")],
        [*GOLD, {"id": "2", "output": "comedy"}],
        r"'1'.* twice",
    ),
    "question of another task": (
        broken(input="Rate this review: good"),
        GOLD,
        r"not a question of movie_tagging",
    ),
    "question without text": (broken(input=["x"]), GOLD, r"needs 'id' and a text 'input'"),
    "no profile": (broken(profile="x"), GOLD, r"user '1': 'profile' must be a list"),
    "history of another task": (
        broken(profile=[{"id": "5", "text": "x"}]),
        GOLD,
        r"history item 1: not an item",
    ),
    "history outside the labels": (
        broken(profile=[{"id": "5", "tag": "x", "description": "y"}]),
        GOLD,
        r"history item '5': 'x' is not a label",
    ),
}


def test_a_file_in_two_formats_is_refused(tmp_path: Path) -> None:
    write_lamp(tmp_path, [movie("1")], GOLD)
    (tmp_path / "dev_outputs.jsonl").write_text('{"id": "1", "output": "action"}')
    with pytest.raises(InputError, match=r"the same file in several formats \(dev_outputs.json, dev_outputs.jsonl\)"):
        read(tmp_path)


@pytest.mark.parametrize("case", BAD)
def test_malformed_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    questions, golds, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(write_lamp(tmp_path, questions, golds))


@pytest.mark.parametrize("questions", [5, "x", [], [3]])
def test_a_task_is_not_recognised_by_questions_that_are_none(questions: Any, tmp_path: Path) -> None:
    (tmp_path / "user_others.json").write_text("[]")
    (tmp_path / "user_top_100_history.json").write_text(json.dumps([{"user_id": "t", "query": questions}]))
    (tmp_path / "user_top_100_history_label.json").write_text(json.dumps({"task": "LaMP_2M", "golds": []}))
    with pytest.raises(InputError, match="its first question is of no known task"):
        recognise_task(tmp_path)


def test_the_layout_is_detected_from_the_files_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no LaMP users here"):
        find_source(tmp_path, MOVIES)
    with pytest.raises(InputError, match="no such file or folder"):
        find_source(tmp_path / "none", MOVIES)
    write_lamp(tmp_path, [movie("1")], GOLD)
    (tmp_path / "user_others.json").write_text("[]")
    with pytest.raises(InputError, match=r"both layouts, dev_questions.json and user_others.json"):
        find_source(tmp_path, MOVIES)
    (tmp_path / "user_others.json").unlink()
    for name in ("questions", "outputs"):
        (tmp_path / f"train_{name}.json").write_text("[]")
    with pytest.raises(InputError, match="several question files"):
        find_source(tmp_path, MOVIES)
    assert find_source(tmp_path / "dev_questions.json", MOVIES).path.name == "dev_questions.json"


def oppu_folder(path: Path, others: Any, targets: Any, golds: Any) -> Path:
    """Write OPPU's three files."""
    path.mkdir(exist_ok=True)
    outputs = {"task": "LaMP_2", "golds": golds}
    for name, content in zip(OPPU, (others, targets, outputs), strict=True):
        (path / name).write_text(json.dumps(content))
    return path


def oppu_user(user_id: str, **extra: Any) -> dict[str, Any]:
    """One well-formed record of OPPU's files with one question."""
    record = movie(f"{user_id}-q")
    query = {"id": record["id"], "input": record["input"], **extra}
    return {"user_id": user_id, "profile": record["profile"], "query": [query]}


def test_a_collective_users_answered_questions_are_read(tmp_path: Path) -> None:
    unanswered = oppu_user("b")
    folder = oppu_folder(
        tmp_path, [oppu_user("a", gold="sci-fi"), unanswered], [oppu_user("t")], [{"id": "t-q", "output": "comedy"}]
    )
    users = {user.user_id: user for user in read(folder)}
    assert [(user.pool, [query.target for query in user.queries]) for user in users.values()] == [
        ("collective", ["sci-fi"]),
        ("collective", []),
        ("target", ["comedy"]),
    ]
    assert [user.skipped for user in users.values()] == [0, 1, 0]


@pytest.mark.parametrize(
    ("others", "golds", "message"),
    [
        ([oppu_user("a", gold="thriller")], [], r"user_others.json: user 'a': gold 'a-q' is 'thriller', not a label"),
        ([oppu_user("a", gold=3.5)], [], r"user_others.json: user 'a': gold 'a-q' is 3.5, not a label"),
        ([], [{"id": "x", "output": "comedy"}], r"_label.json: gold for 'x', but .*history.json has no such question"),
        ([], [{"id": "t-q", "output": "horror"}], r"_label.json: gold 't-q' is 'horror', not a label"),
        ([oppu_user("t", gold="comedy")], [], r"user 't': this id occurs twice"),
        ([{**oppu_user("a"), "query": oppu_user("a", gold="comedy")["query"] * 2}], [], r"gold 'a-q' occurs twice"),
        (
            [oppu_user("a", gold="comedy"), {**oppu_user("b"), "query": oppu_user("a", gold="comedy")["query"]}],
            [],
            r"user_others.json: user 'b', question 'a-q': this id occurs twice",
        ),
        ([oppu_user("a", gold=["x"])], [], r"user 'a': gold 'a-q' is \['x'\], expected a text"),
        ([{"user_id": "a", "profile": "none"}], [], r"user_others.json: user 'a': 'profile' must be a list"),
        ([{"profile": []}], [], r"user_others.json: user 'number 1': no user_id"),
    ],
)
def test_a_malformed_oppu_folder_is_refused_by_name(others: Any, golds: Any, message: str, tmp_path: Path) -> None:
    known = [] if any(gold["id"] == "t-q" for gold in golds) else [{"id": "t-q", "output": "comedy"}]
    with pytest.raises(InputError, match=message):
        read(oppu_folder(tmp_path, others, [oppu_user("t")], [*known, *golds]))


def test_dated_histories_are_read_oldest_first(tmp_path: Path) -> None:
    question = movie("1", history=3)
    for item, date in zip(question["profile"], ("2019-05-01", "2018-01-31", "2020-02-02"), strict=True):
        item["date"] = date
    (user,) = read(write_lamp(tmp_path, [question], GOLD))
    assert [pair.source for pair in user.history] == ["Joke 1 of 1.", "Joke 0 of 1.", "Joke 2 of 1."]
    del question["profile"][0]["date"]
    (user,) = read(write_lamp(tmp_path, [question], GOLD))
    assert [pair.source for pair in user.history] == ["Joke 0 of 1.", "Joke 1 of 1.", "Joke 2 of 1."]


def test_reading_holds_one_user_in_memory(tmp_path: Path) -> None:
    # 8 MB of users, 50 kB each.
    path = tmp_path / "dev_questions.json"
    with path.open("w") as file:
        for number in range(160):
            record = movie(str(number), history=0)
            record["profile"] = [{"id": "h", "tag": "comedy", "description": f"{number} joke " * 7_500}]
            file.write(("[" if number == 0 else ",") + json.dumps(record))
        file.write("]")
    golds = [{"id": str(number), "output": "comedy"} for number in range(160)]
    (tmp_path / "dev_outputs.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))
    tracemalloc.start()
    try:
        assert sum(len(user.history) for user in find_source(path, MOVIES).users()) == 160
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


def test_texts_that_rouge_cannot_tell_apart_are_leaks(tmp_path: Path) -> None:
    tweet = "Paraphrase the following tweet without any explanation before or after it: It is late."
    texts = ["So late, again!", "so late again :)", "so late", "\u05d0\u05d7\u05e8", "https://x.y"]
    profile = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    gold = [{"id": "1", "output": "so late again"}]
    folder = write_lamp(tmp_path, [{"id": "1", "input": tweet, "profile": profile}], gold, "LaMP_7")
    (user,) = find_source(folder, TWEETS).users()
    # A bare link leaves no usable text.
    assert [pair.source for pair in user.history] == ["So late.", "\u05d0\u05d7\u05e8."]
    assert (user.leaks, user.skipped) == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"half \\ud83d"', "user '1', history item 'h': holds half of a surrogate pair"),
        ("1" * 5000, r"dev_questions.json, line 1: broken JSON: Exceeds the limit"),
    ],
)
def test_valid_json_that_cannot_be_stored_is_refused(text: str, message: str, tmp_path: Path) -> None:
    question = json.dumps({**movie("1"), "profile": [{"id": "h", "tag": "comedy", "description": "HERE"}]})
    write_lamp(tmp_path, f"[{question.replace(chr(34) + 'HERE' + chr(34), text)}]", GOLD)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_every_record_of_a_user_may_contain_the_profile(tmp_path: Path) -> None:
    first, second = movie("1"), {**movie("2"), "profile": movie("1")["profile"]}
    questions = [{**record, "user_id": "u"} for record in (first, second)]
    (user,) = read(write_lamp(tmp_path, questions, [*GOLD, {"id": "2", "output": "comedy"}]))
    assert (len(user.history), len(user.queries)) == (2, 2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev_questions.json").write_text("[]")
    with pytest.raises(InputError, match=r"dev_outputs.json: missing; it holds the golds of dev_questions.json"):
        find_source(tmp_path, MOVIES)
    (tmp_path / "dev_questions.json").unlink()
    for name in OPPU[:2]:
        (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=r"user_top_100_history_label.json missing, only user_others.json and"):
        find_source(tmp_path, MOVIES)
    (tmp_path / "above").mkdir()
    write_lamp(tmp_path / "above" / "dev", [movie("1")], GOLD)
    with pytest.raises(InputError, match="its subfolder 'dev' has some"):
        find_source(tmp_path / "above", MOVIES)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real histories are not on this machine")
def test_real_tweets_are_read_completely_and_their_leaks_counted() -> None:
    users = list(find_source(SHARED / "tweet_paraphrase", TWEETS).users())
    assert len(users) == 1000
    # 20 history items of 11 users equal a gold except for white space; 12 more items, two of them from two further
    # users, differ only in punctuation or capitals.
    assert (sum(user.leaks > 0 for user in users), sum(user.leaks for user in users)) == (13, 32)
    assert sum(len(user.history) + user.leaks + user.skipped for user in users) == 17_434
    assert any("&amp;" in pair.target for user in users for pair in user.history)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real histories are not on this machine")
@pytest.mark.parametrize(
    ("task", "collective", "targets"),
    [("news_headline", 101, 40), ("scholarly_title", 110, 40), ("product_rating", 276, 60)],
)
def test_real_oppu_folders_are_read_completely(task: str, collective: int, targets: int) -> None:
    users = list(find_source(SHARED / task, find_task(task)).users())
    pools = [user.pool for user in users]
    assert (pools.count("collective"), pools.count("target")) == (collective, targets)
    assert all(user.queries for user in users)
