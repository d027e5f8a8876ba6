"""LaMP files as people have them, and every way they can be broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from fl_clients.lamp import json_stream, readers
from fl_clients.lamp.json_stream import stream_array
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import content_words, find_task
from tests.conftest import movie, write_lamp

MOVIES, TWEETS = find_task("movie_tagging"), find_task("tweet_paraphrase")
GOLD = [{"id": "1", "output": "comedy"}]
SHARED = Path(__file__).parents[3] / "shared" / "lamp"


def read(folder: Path) -> list[readers.User]:
    return list(find_source(folder, MOVIES).users())


def test_official_files_read_one_question_a_user(tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [movie("1", "A fight.")], GOLD))
    assert user.user_id == "1"
    assert [(pair.source, pair.target) for pair in user.history] == [
        ("Joke 0.", "comedy"),
        ("Joke 1.", "comedy"),
    ]
    assert [(pair.item_id, pair.source, pair.target) for pair in user.queries] == [("1", "A fight.", "comedy")]


def test_records_that_name_their_user_are_joined(tmp_path: Path) -> None:
    questions = [{**movie("1"), "user_id": "u"}, {**movie("2", "Robots.", history=0), "user_id": "u"}]
    (user,) = read(write_lamp(tmp_path, questions, [*GOLD, {"id": "2", "output": "sci-fi"}]))
    assert (user.user_id, len(user.history), [query.target for query in user.queries]) == (
        "u",
        2,
        ["comedy", "sci-fi"],
    )


def test_a_leak_is_dropped_from_the_history_and_counted(tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [movie("1", "Joke 1.")], GOLD))
    assert ([pair.source for pair in user.history], user.leaks) == (["Joke 0."], 1)


def test_an_empty_history_is_kept(tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [movie("1", history=0)], GOLD))
    assert user.history == []


def test_oppu_files_give_roles(tmp_path: Path) -> None:
    item = {"id": "a", "tag": "comedy", "description": "x"}
    question = {"id": "1", "input": "… description: y"}
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
    "not a list": ('{"id": 1}', GOLD, r"line 1: broken JSON: expected a list"),
    "not objects": ("[1]", GOLD, r"expected an object"),
    "cut short": ('[{"id": "1"}', GOLD, r"expected ',' or '\]'|needs 'id'"),
    "broken golds": ([movie("1")], '{"task": "LaMP_2", ', r"dev_outputs.json: broken JSON.*line 1"),
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
    "gold twice": ([movie("1")], GOLD * 2, r"gold '1' occurs twice"),
    "gold nobody asks": ([movie("1")], [*GOLD, {"id": "9", "output": "comedy"}], r"gold for '9'"),
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
    "question without text": (broken(input=None), GOLD, r"needs 'id' and a text 'input'"),
    "no profile": (broken(profile=None), GOLD, r"user '1': 'profile' must be a list"),
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


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case: str, tmp_path: Path) -> None:
    questions, golds, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(write_lamp(tmp_path, questions, golds))


def test_what_lies_in_a_folder_decides(tmp_path: Path) -> None:
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


def test_streaming_crosses_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 7)
    objects = [{"n": n, "text": "é🙂 \n" * n, "deep": [{"a": [n]}]} for n in range(30)]
    path = tmp_path / "big.json"
    path.write_text(" \n" + json.dumps(objects, indent=2, ensure_ascii=False) + "\n ", encoding="utf-8")
    assert list(stream_array(path)) == objects
    path.write_text(json.dumps(objects, indent=2)[:-30])
    with pytest.raises(InputError, match=r"big\.json, line \d+: broken JSON"):
        list(stream_array(path))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'movie_tagging'"):
        find_task("movie_taging")


def test_content_words_leave_the_manner_out() -> None:
    assert content_words("@Bob SOOO happyyyy!! omg http://x.y &amp; that's over the Bridge") == "happy that's bridge"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real histories are not on this machine")
def test_real_tweets_read_whole_with_their_leaks() -> None:
    users = list(find_source(SHARED / "tweet_paraphrase", TWEETS).users())
    assert len(users) == 1000
    # White space aside, 11 questions have their gold in the history, some of them more than once.
    assert (sum(user.leaks > 0 for user in users), sum(user.leaks for user in users)) == (11, 20)
    assert any("&amp;" in pair.target for user in users for pair in user.history)
