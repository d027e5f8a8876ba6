"""Empty texts and missing histories: skipped and counted, whatever stands for nothing."""

from pathlib import Path
from typing import Any

import pytest

from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import User
from tests.conftest import movie, write_lamp

GOLD = [{"id": "1", "output": "comedy"}]


def read(folder: Path) -> list[User]:
    return list(find_source(folder, find_task("movie_tagging")).users())


@pytest.mark.parametrize("profile", [[], None])
def test_an_empty_history_is_kept(profile: list[Any] | None, tmp_path: Path) -> None:
    (user,) = read(write_lamp(tmp_path, [{**movie("1"), "profile": profile}], GOLD))
    assert user.history == []


EMPTY = ["", "  ", "\u200b", "\u3164", "\u2800", "\ufe0f", None, float("nan")]


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("field", ["description", "tag", "input", "output"])
def test_empty_texts_are_skipped_and_counted_alike(field: str, empty: Any, tmp_path: Path) -> None:
    question, gold = movie("1"), dict(GOLD[0])
    for part in (question["profile"][0], question, gold):
        part.update({field: empty} if field in part else {})
    (user,) = read(write_lamp(tmp_path, [question], [gold]))
    history = field in ("description", "tag")
    assert (len(user.history), len(user.queries), user.skipped) == ((1, 1, 1) if history else (2, 0, 1))


@pytest.mark.parametrize("nothing", ["", " ", "\u200b"])
def test_a_question_without_a_text_after_its_marker_is_skipped(nothing: str, tmp_path: Path) -> None:
    golds = [*GOLD, {"id": "2", "output": "comedy"}]
    (first, second) = read(write_lamp(tmp_path, [movie("1"), movie("2", nothing)], golds))
    assert (len(first.queries), first.skipped) == (1, 0)
    assert (second.queries, second.skipped) == ([], 1)
