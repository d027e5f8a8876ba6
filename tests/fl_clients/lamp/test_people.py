"""Questions of official files that one person asks become one user; examples of others never hold a target's gold."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.select_users import UserTable, build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import User, text_key
from fl_clients.lamp.user_table import open_user
from tests.conftest import tiny_config, write_lamp

MOVIES, TITLES = find_task("movie_tagging"), find_task("scholarly_title")
CASES = Path(__file__).parents[4] / "shared" / "cases"


def film(name: str, tag: str = "comedy", item_id: str | None = None) -> dict[str, Any]:
    return {"description": f"Film {name}.", "tag": tag, **({"id": item_id} if item_id else {})}


def asks(question_id: str, name: str, profile: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    text = f"Which tag does this movie relate to? description: Film {name}."
    return {"id": question_id, "input": text, "profile": profile, **extra}


def read(folder: Path, questions: list[dict[str, Any]], tag: str = "comedy") -> list[User]:
    golds = [{"id": question["id"], "output": tag} for question in questions]
    return list(find_source(write_lamp(folder, questions, golds), MOVIES).users())


def test_questions_with_the_same_profile_are_one_persons(tmp_path: Path) -> None:
    profile = [film("a", item_id="a"), film("b", item_id="b")]
    other = [film("x"), film("y")]
    users = read(tmp_path, [asks("1", "q", profile), asks("2", "r", other), asks("3", "s", profile[::-1])])
    # A user is read with its last question.
    assert [(user.user_id, [query.item_id for query in user.queries]) for user in users] == [
        ("2", ["2"]),
        ("1", ["1", "3"]),
    ]
    assert [(user.joined, len(user.history)) for user in users] == [(0, 2), (2, 2)]


def test_a_profile_that_leaves_out_its_own_question_is_the_same_persons(tmp_path: Path) -> None:
    # Every profile holds the other question with its gold.
    questions = [asks("1", "q", [film("a"), film("r")]), asks("2", "r", [film("a"), film("q")])]
    (user,) = read(tmp_path, questions)
    assert [pair.source for pair in user.history] == ["Film a."]
    assert (user.joined, user.leaks) == (2, 2)


def test_a_profile_that_grows_with_time_is_the_same_persons(tmp_path: Path) -> None:
    films = [film(str(number)) for number in range(6)]
    users = read(tmp_path, [asks(str(end), f"q{end}", films[:end]) for end in (3, 4, 6)])
    assert [user.joined for user in users] == [3]


@pytest.mark.parametrize("profile", [[], [film("a")], [film("a", "action"), film("b", "action"), film("c")]])
def test_other_people_stay_apart(profile: list[dict[str, Any]], tmp_path: Path) -> None:
    # Nothing in common, one film of several, or the same films with other tags.
    users = read(tmp_path, [asks("1", "q", [film("a"), film("b"), film("c")]), asks("2", "r", profile)])
    assert [user.joined for user in users] == [0, 0]


def test_users_with_ids_are_not_joined_by_their_profiles(tmp_path: Path) -> None:
    profile = [film("a"), film("b")]
    users = read(tmp_path, [asks("1", "q", profile, user_id="u"), asks("2", "r", profile, user_id="v")])
    assert [(user.user_id, user.joined) for user in users] == [("u", 0), ("v", 0)]


def paper(question_id: str, abstract: str, items: list[tuple[str, str]]) -> dict[str, Any]:
    text = f"Generate a title for the following abstract of a paper: {abstract}"
    return {
        "id": question_id,
        "input": text,
        "profile": [
            {"id": f"{question_id}{n}", "abstract": source, "title": title} for n, (source, title) in enumerate(items)
        ],
    }


def table(folder: Path, *words: str) -> UserTable:
    return build_table(
        tiny_config("task=scholarly_title", f"users.source={folder}", "users.collective=1", "cohort=1", *words)
    )


def test_examples_of_collective_users_that_hold_a_targets_question_or_gold_are_left_out(tmp_path: Path) -> None:
    collective = [
        ("Asked by the target.", "Another title"),
        ("Another abstract.", "THE target's gold!"),
        ("Kept.", "Kept"),
    ]
    questions = [paper("c", "Mine.", collective), paper("t", "Asked, by the target", [("Old.", "Old")])]
    golds = [{"id": "c", "output": "My gold"}, {"id": "t", "output": "The targets gold"}]
    golds[1]["output"] = "the target's gold"
    write_lamp(tmp_path, questions, golds, "LaMP_5")
    words = ['users.select="listed"', 'users.collective_ids=["c"]', 'users.target_ids=["t"]', "users.target=1"]
    made = table(tmp_path, *words)
    assert [pair.source for pair in open_user(made.folder, 0).history] == ["Kept."]
    assert [pair.source for pair in open_user(made.folder, 1).history] == ["Old."]
    assert made.leaks == 2
    assert made.notes == ("2 examples of collective users are left out: they hold a target's question or gold",)


@pytest.mark.parametrize("empty", ["", " ", None, float("nan")])
def test_an_empty_user_id_is_none(empty: Any, tmp_path: Path) -> None:
    users = read(tmp_path, [asks("1", "q", [film("a")], user_id=empty), asks("2", "r", [film("b")], user_id=empty)])
    assert [user.user_id for user in users] == ["1", "2"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Привет, мир!", "привет мир", True),
        ("你好，世界。", "你好世界", True),
        ("Café", "Cafe\u0301", True),
        ("Hel\u200blo world", "hello world", True),
        ("Tom &amp;amp; Jerry", "Tom & Jerry", True),
        ("東京2020", "大阪2020", False),
        ("苹果发布 iPhone 15", "三星发布 iPhone 15", False),
        ("cà phê", "cá phê", False),
        ("😂", "😭", False),
    ],
)
def test_texts_are_the_same_if_their_words_are_in_any_script(one: str, other: str, same: bool) -> None:
    assert (text_key(one) == text_key(other)) == same


def test_an_own_item_with_the_questions_text_is_left_out_whatever_its_title(tmp_path: Path) -> None:
    questions = [paper("t", "Storms of Maine.", [("Storms of Maine!", "Storms (updated)"), ("Old.", "Old")])]
    write_lamp(tmp_path, questions, [{"id": "t", "output": "Storms"}], "LaMP_5")
    (user,) = find_source(tmp_path, find_task("scholarly_title")).users()
    assert ([pair.source for pair in user.history], user.leaks) == (["Old."], 1)


def listed(folder: Path, history: list[tuple[str, str]]) -> list[str]:
    """A collective user with a history and a target who asks for `Asked.`; the overrides that select them."""
    questions = [paper("c", "Mine.", history), paper("t", "Asked.", [("Old.", "Old")])]
    write_lamp(folder, questions, [{"id": "c", "output": ""}, {"id": "t", "output": "Gold"}], "LaMP_5")
    return ['users.select="listed"', 'users.collective_ids=["c"]', 'users.target_ids=["t"]', "users.target=1"]


def test_a_limited_history_counts_what_is_left(tmp_path: Path) -> None:
    words = listed(tmp_path, [("Asked.", "A title"), ("One.", "1"), ("Two.", "2"), ("Three.", "3")])
    made = table(tmp_path, *words, "users.collective_history=2")
    assert [pair.source for pair in open_user(made.folder, 0).history] == ["One.", "Two."]


def test_collective_users_left_without_an_example_are_found_before_a_run(tmp_path: Path) -> None:
    words = listed(tmp_path, [("Asked.", "A title")])
    with pytest.raises(InputError, match=r"cohort=1: only 0 collective users of .* have an example left"):
        table(tmp_path, *words)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
def test_leave_one_out_files_are_read_as_people() -> None:
    users = list(find_source(CASES / "official_loo", MOVIES).users())
    assert len(users) == 12
    assert all(user.joined == len(user.queries) == 2 for user in users)
    for user in users:
        asked = {query.source for query in user.queries}
        assert not asked & {pair.source for pair in user.history}


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
@pytest.mark.parametrize("case", ["emptytext", "blanktext", "nulltext"])
def test_empty_texts_are_skipped_and_counted_alike(case: str) -> None:
    users = list(find_source(CASES / case, MOVIES).users())
    whole = list(find_source(CASES / "jsonl", MOVIES).users())
    assert sum(user.skipped for user in users) == 1
    assert sum(len(user.history) for user in users) == sum(len(user.history) for user in whole) - 1


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
@pytest.mark.parametrize("case", ["d_epoch", "d_tweet"])
def test_dates_order_the_histories(case: str) -> None:
    ids = [[pair.item_id for pair in user.history] for user in find_source(CASES / case, MOVIES).users()]
    assert any(len(each) == 6 for each in ids)
    assert all(each == sorted(each) for each in ids)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
def test_a_null_title_and_a_score_with_a_point_are_read() -> None:
    users = list(find_source(CASES / "h_null", find_task("news_headline")).users())
    assert sum(user.skipped for user in users) == 1
    rated = list(find_source(CASES / "r_floatscore", find_task("product_rating")).users())
    assert {pair.target for user in rated for pair in user.history} <= set("12345")
    assert json.dumps([user.skipped for user in rated]) == json.dumps([0] * len(rated))
