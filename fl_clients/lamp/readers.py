"""Reads LaMP users from official LaMP files or from OPPU's processed folder.

The layout is detected from the file names. Both layouts are streamed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from configs.errors import InputError, nearest
from fl_clients.lamp.files import find_json, stem_of
from fl_clients.lamp.json_stream import stream_objects
from fl_clients.lamp.people import find_people
from fl_clients.lamp.records import build_user, check_golds, identifier, read_golds, read_question, user_name
from fl_clients.lamp.tasks import TASKS, Task
from fl_clients.lamp.user import Pool, User

_QUESTIONS = ".*questions"
_OPPU = ("user_others", "user_top_100_history", "user_top_100_history_label")


@dataclass(frozen=True)
class Source:
    """The files that users are read from."""

    layout: Literal["lamp", "oppu"]
    path: Path
    """An official questions file, or OPPU's folder."""
    files: tuple[Path, ...]
    """Questions and golds; or OPPU's collective users, target users and golds of those."""
    task: Task

    def users(self) -> Iterator[User]:
        """Yield every user, in the files' order.

        Raises:
            InputError: A file is malformed; the message gives file, user and item.
        """
        return self._official_users() if self.layout == "lamp" else self._oppu_users()

    @cached_property
    def people(self) -> list[str]:
        """Whose question each record of an official file is (see `find_people`)."""
        questions, outputs = self.files
        return find_people(stream_objects(questions), read_golds(outputs, self.task), self.task)

    def _official_users(self) -> Iterator[User]:
        """Read official LaMP; a user is yielded with its last question."""
        path, outputs = self.files
        golds = read_golds(outputs, self.task)
        left = Counter(self.people)
        waiting: dict[str, list[dict[str, Any]]] = {}
        asked: set[str] = set()
        for user_id, record in zip(self.people, stream_objects(path), strict=True):
            waiting.setdefault(user_id, []).append(record)
            left[user_id] -= 1
            if not left[user_id]:
                yield self._person(user_id, waiting.pop(user_id), golds, asked)
        if unasked := golds.keys() - asked:
            raise InputError(f"{outputs}: gold for {min(unasked)!r}, but {path.name} has no such question")

    def _person(self, user_id: str, records: list[dict[str, Any]], golds: dict[str, str], asked: set[str]) -> User:
        where = f"{self.files[0]}: user {user_id!r}"
        queries = []
        profile: list[Any] = []
        known: set[str] = set()
        for record in records:
            query = read_question(record, golds, self.task, f"{where}, question {record.get('id')!r}")
            if query.item_id in asked:
                raise InputError(f"{where}, question {query.item_id!r}: this id occurs twice")
            asked.add(query.item_id)
            queries.append(query)
            if "profile" not in record:
                hint = nearest("profile", list(record))
                raise InputError(f"{where}: no 'profile', the list of history items, which may be empty{hint}")
            items = record["profile"]
            if items is not None and not isinstance(items, list):
                raise InputError(f"{where}: 'profile' must be a list of history items")
            # Every record of a user may contain the whole profile.
            profile += [item for item in items or [] if _identity(item) not in known]
            known |= {_identity(item) for item in items or []}
        joined = len(records) if len(records) > 1 and any(user_name(record) is None for record in records) else 0
        return build_user(user_id, profile, queries, self.task, where, "any", 0, joined)

    def _oppu_users(self) -> Iterator[User]:
        others, targets, labels = self.files
        target_golds = read_golds(labels, self.task)
        seen: set[str] = set()
        for file in (others, targets):
            golds = None if file == others else target_golds
            asked: set[str] = set()
            for number, record in enumerate(stream_objects(file)):
                user = _oppu_user(file, number, record, self.task, golds, asked)
                if user.user_id in seen:
                    raise InputError(f"{file}: user {user.user_id!r}: this id occurs twice")
                seen.add(user.user_id)
                yield user
        if unasked := target_golds.keys() - asked:
            raise InputError(f"{labels}: gold for {min(unasked)!r}, but {targets.name} has no such question")


def _identity(item: Any) -> str:
    """Return what tells a history item from others: its content, since LaMP numbers a person's items per question."""
    content = {key: value for key, value in item.items() if key != "id"} if isinstance(item, dict) else item
    return json.dumps(content, sort_keys=True)


def _oppu_user(
    file: Path, number: int, record: dict[str, Any], task: Task, golds: dict[str, str] | None, asked: set[str]
) -> User:
    """Read one user of OPPU's folder.

    Args:
        file: The user's file.
        number: The user's position in it, from 0.
        record: The user.
        task: The task.
        golds: A target user's, by question id; None for a collective user, whose golds are with its questions.
        asked: Ids of all questions read from the file so far; this user's are added.
    """
    user_id = record.get("user_id")
    where = f"{file}: user {user_id if user_id is not None else f'number {number + 1}'!r}"
    try:
        user_id = identifier(user_id)
    except TypeError:
        raise InputError(f"{where}: no user_id") from None
    questions = record.get("query") or []
    if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
        raise InputError(f"{where}: 'query' must be a list of questions")
    pool: Pool = "target" if golds is not None else "collective"
    skipped = 0
    if golds is None:
        # Without a gold, a collective user's question is not usable.
        answered = [question for question in questions if "gold" in question]
        skipped, questions = len(questions) - len(answered), answered
        golds = check_golds([(identifier(question.get("id")), question["gold"]) for question in questions], task, where)
    queries = [read_question(each, golds, task, f"{where}, question {each.get('id')!r}") for each in questions]
    for query in queries:
        if query.item_id in asked:
            raise InputError(f"{where}, question {query.item_id!r}: this id occurs twice")
        asked.add(query.item_id)
    return build_user(user_id, record.get("profile"), queries, task, where, pool, skipped)


def find_source(path: Path, task: Task) -> Source:
    """Detect the layout of `path`, a folder or an official questions file.

    Raises:
        InputError: There are no users, or the layout is ambiguous.
    """
    if path.is_file():
        if not re.fullmatch(_QUESTIONS, stem_of(path)):
            raise InputError(f"{path}: expected a file named *questions.json, or a folder")
        return Source("lamp", path, (path, _outputs_of(path)), task)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder of LaMP users (users.source)")
    questions = find_json(path, _QUESTIONS)
    oppu = [_only(files) for name in _OPPU if (files := find_json(path, name))]
    if questions and oppu:
        raise InputError(f"{path}: holds both layouts, {questions[0].name} and {oppu[0].name}; keep only one of them")
    if len(questions) > 1:
        names = ", ".join(file.name for file in questions)
        raise InputError(f"{path}: holds several question files ({names}); set users.source to one of them")
    if questions:
        return Source("lamp", questions[0], (questions[0], _outputs_of(questions[0])), task)
    if len(oppu) == len(_OPPU):
        return Source("oppu", path, tuple(oppu), task)
    if oppu:
        missing = [f"{name}.json" for name in _OPPU if name not in map(stem_of, oppu)]
        there = " and ".join(file.name for file in oppu)
        raise InputError(f"{path}: {' and '.join(missing)} missing, only {there} found")
    inside = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and find_json(folder, _QUESTIONS))
    expected = ", ".join(f"{name}.json" for name in _OPPU)
    raise InputError(
        f"{path}: no LaMP users here; expected *_questions.json with *_outputs.json, or {expected}"
        + (f"; its subfolder '{inside[0]}' has some" if inside else "")
    )


def recognise_task(path: Path) -> Task:
    """Tell the task of LaMP files from their first question.

    Raises:
        InputError: There are no users, or the question is none of a known task.
    """
    source = find_source(path, next(iter(TASKS.values())))
    file = source.files[0] if source.layout == "lamp" else source.files[1]
    record = next(iter(stream_objects(file)), {})
    questions = record.get("query")
    first = questions[0] if isinstance(questions, list) and questions else {}
    asked = record if source.layout == "lamp" else first
    text = str(asked.get("input", "") if isinstance(asked, dict) else "").lstrip()
    for task in TASKS.values():
        if text.startswith(task.opening):
            return task
    raise InputError(f"{file}: its first question is of no known task; expected --task, one of {', '.join(TASKS)}")


def _only(files: list[Path]) -> Path:
    """Refuse a file that is there in two formats, since they may differ."""
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{files[0].parent}: holds the same file in several formats ({names}); keep one of them")
    return files[0]


def _outputs_of(questions: Path) -> Path:
    """Return the golds' file of a questions file.

    Raises:
        InputError: There is none, or there are several.
    """
    stem = stem_of(questions).removesuffix("questions") + "outputs"
    files = find_json(questions.parent, re.escape(stem))
    if not files:
        expected = questions.with_name(f"{stem}.json")
        raise InputError(f"{expected}: missing; it holds the golds of {questions.name}")
    return _only(files)
