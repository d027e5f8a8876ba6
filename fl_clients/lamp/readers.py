"""Reads LaMP users from official LaMP files or from OPPU's processed folder.

The layout is detected from the file names. Both layouts are streamed, with one user in memory at a time.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from configs.errors import InputError
from fl_clients.lamp.json_stream import stream_array
from fl_clients.lamp.tasks import Task

Pool = Literal["any", "collective", "target"]

_ROUGE_WORD = re.compile("[a-z0-9]+")
_OPPU = ("user_others.json", "user_top_100_history.json", "user_top_100_history_label.json")


@dataclass(frozen=True)
class Pair:
    """A source text with its target: one history item or one question with its gold."""

    item_id: str
    source: str
    target: str


@dataclass(frozen=True)
class User:
    """One LaMP user."""

    user_id: str
    history: list[Pair]
    """Oldest first if every item has a date, else in the file's order."""
    queries: list[Pair]
    pool: Pool
    """The user's role in the files; `any` if they assign none."""
    leaks: int
    """Number of history items left out because they reveal a question's answer."""
    skipped: int
    """Number of history items without usable text, plus a collective user's questions without a gold."""


@dataclass(frozen=True)
class Source:
    """The folder or file that users are read from."""

    layout: Literal["lamp", "oppu"]
    path: Path
    task: Task

    def users(self) -> Iterator[User]:
        """Yield every user, in the files' order.

        Raises:
            InputError: A file is malformed; the message gives file, user and item.
        """
        return _official_users(self.path, self.task) if self.layout == "lamp" else _oppu_users(self.path, self.task)


def find_source(path: Path, task: Task) -> Source:
    """Detect the layout of `path`, a folder or an official questions file.

    Raises:
        InputError: There are no users, or the layout is ambiguous.
    """
    if path.is_file():
        if not path.name.endswith("questions.json"):
            raise InputError(f"{path}: expected a file named *questions.json, or a folder")
        return Source("lamp", path, task)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder of LaMP users")
    questions = sorted(path.glob("*questions.json"))
    oppu = [name for name in _OPPU if (path / name).is_file()]
    if questions and oppu:
        raise InputError(f"{path}: holds both layouts, {questions[0].name} and {oppu[0]}; keep only one of them")
    if len(questions) > 1:
        names = ", ".join(file.name for file in questions)
        raise InputError(f"{path}: holds several question files ({names}); set users.source to one of them")
    if questions and not _outputs_of(questions[0]).is_file():
        raise InputError(f"{_outputs_of(questions[0])}: missing; it holds the golds of {questions[0].name}")
    if questions:
        return Source("lamp", questions[0], task)
    if len(oppu) == len(_OPPU):
        return Source("oppu", path, task)
    if oppu:
        raise InputError(f"{path}: {' and '.join(set(_OPPU) - set(oppu))} missing, only {' and '.join(oppu)} found")
    inside = sorted(file.parent.name for file in path.glob("*/*questions.json"))
    raise InputError(
        f"{path}: no LaMP users here; expected *_questions.json with *_outputs.json, or {', '.join(_OPPU)}"
        + (f"; its subfolder '{inside[0]}' has some" if inside else "")
    )


def _outputs_of(questions: Path) -> Path:
    return questions.with_name(questions.name.replace("questions.json", "outputs.json"))


def _official_users(path: Path, task: Task) -> Iterator[User]:
    """Read official LaMP, where every question is a user; consecutive records with one `user_id` are one user's.

    The grouping is fedperfit's addition (the synthetic generator writes it, with the profile in the first record only);
    files without `user_id` are read as LaMP defines them.
    """
    golds = _read_golds(_outputs_of(path), task)
    asked: set[str] = set()
    seen: set[str] = set()

    def owner(record: dict[str, Any]) -> str:
        return str(record.get("user_id", record.get("id")))

    for user_id, records in itertools.groupby(stream_array(path), key=owner):
        where = f"{path}: user {user_id!r}"
        if user_id in seen:
            raise InputError(f"{where}: this id occurs twice; one user's records must be consecutive")
        seen.add(user_id)
        profile: list[Any] = []
        queries: list[Pair] = []
        for record in records:
            query = _question(record, golds, task, f"{where}, question {record.get('id')!r}")
            if query.item_id in asked:
                raise InputError(f"{where}, question {query.item_id!r}: this id occurs twice")
            asked.add(query.item_id)
            queries.append(query)
            if not isinstance(record.get("profile"), list):
                raise InputError(f"{where}: 'profile' must be a list of history items")
            # Every record of a user may contain the whole profile.
            known = {item.get("id") for item in profile if isinstance(item, dict)} - {None}
            profile += [i for i in record["profile"] if not (isinstance(i, dict) and i.get("id") in known)]
        yield _user(user_id, {"profile": profile}, queries, task, where, "any", 0)
    if unasked := golds.keys() - asked:
        raise InputError(f"{_outputs_of(path)}: gold for {min(unasked)!r}, but {path.name} has no such question")


def _oppu_users(path: Path, task: Task) -> Iterator[User]:
    others, targets, labels = (path / name for name in _OPPU)
    target_golds = _read_golds(labels, task)
    seen: set[str] = set()
    for file in (others, targets):
        golds = target_golds
        asked: set[str] = set()
        for number, record in enumerate(stream_array(file)):
            user_id = record.get("user_id")
            where = f"{file}: user {user_id if user_id is not None else f'number {number + 1}'!r}"
            if not isinstance(user_id, str | int):
                raise InputError(f"{where}: no user_id")
            if str(user_id) in seen:
                raise InputError(f"{where}: this id occurs twice")
            seen.add(str(user_id))
            questions = record.get("query", [])
            if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
                raise InputError(f"{where}: 'query' must be a list of questions")
            skipped = 0
            if file == others:
                # Collective users' golds are stored with their questions; without a gold, a question is not usable.
                answered = [question for question in questions if "gold" in question]
                skipped, questions = len(questions) - len(answered), answered
                golds = _check_golds([(str(q.get("id")), q["gold"]) for q in questions], task, where)
            queries = [_question(q, golds, task, f"{where}, question {q.get('id')!r}") for q in questions]
            for query in queries:
                if query.item_id in asked:
                    raise InputError(f"{where}, question {query.item_id!r}: this id occurs twice")
                asked.add(query.item_id)
            pool: Pool = "target" if file == targets else "collective"
            yield _user(str(user_id), record, queries, task, where, pool, skipped)
    if unasked := target_golds.keys() - asked:
        raise InputError(f"{labels}: gold for {min(unasked)!r}, but {targets.name} has no such question")


def _read_golds(path: Path, task: Task) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: missing; it holds the questions' golds")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if content["task"] not in task.lamp_names:
            raise InputError(f"{path}: golds of task {content['task']!r}, expected {' or '.join(task.lamp_names)}")
        golds = [(str(gold["id"]), gold["output"]) for gold in content["golds"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: expected {{'task': …, 'golds': [{{'id': …, 'output': …}}]}}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken JSON: {error}") from None
    return _check_golds(golds, task, str(path))


def _check_golds(golds: list[tuple[str, Any]], task: Task, where: str) -> dict[str, str]:
    checked: dict[str, str] = {}
    for gold_id, output in golds:
        if gold_id in checked:
            raise InputError(f"{where}: gold {gold_id!r} occurs twice")
        if type(output) is int:
            output = str(output)
        if not isinstance(output, str) or not output.strip():
            raise InputError(f"{where}: gold {gold_id!r} is {output!r}, expected a text")
        if task.labels and output not in task.labels:
            raise InputError(f"{where}: gold {gold_id!r} is {output!r}, not a label of {task.name}")
        checked[gold_id] = _whole(output, f"{where}: gold {gold_id!r}")
    return checked


def _whole(text: str, where: str) -> str:
    """Reject half of a surrogate pair: JSON can express it, but no text file or table can store it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    return text


def _question(record: dict[str, Any], golds: dict[str, str], task: Task, where: str) -> Pair:
    question_id, text = record.get("id"), record.get("input")
    if not isinstance(question_id, str | int) or not isinstance(text, str):
        raise InputError(f"{where}: a question needs 'id' and a text 'input'")
    if str(question_id) not in golds:
        raise InputError(f"{where}: no gold found")
    try:
        return Pair(str(question_id), task.question_source(_whole(text, where)), golds[str(question_id)])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _user(
    user_id: str,
    record: dict[str, Any],
    queries: list[Pair],
    task: Task,
    where: str,
    pool: Pool,
    skipped: int,
) -> User:
    profile = record.get("profile")
    if not isinstance(profile, list):
        raise InputError(f"{where}: 'profile' must be a list of history items")
    history: list[Pair] = []
    dates: list[str] = []
    for number, item in enumerate(profile):
        try:
            item_id = str(item.get("id", number))
            source, target = task.history_pair(item)
            if not isinstance(source, str) or not isinstance(target, str):
                raise TypeError("expected texts")
            at = f"{where}, history item {item_id!r}"
            pair = Pair(item_id, _whole(source, at), _whole(target, at))
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{where}, history item {number + 1}: not an item of {task.name}: {error}") from None
        if task.labels and pair.target not in task.labels:
            raise InputError(f"{where}, history item {pair.item_id!r}: {pair.target!r} is not a label of {task.name}")
        if pair.source and pair.target:
            history.append(pair)
            dates += [str(item["date"])] if item.get("date") else []
    if dates and len(dates) == len(history):
        history = [history[i] for i in sorted(range(len(history)), key=dates.__getitem__)]
    kept = [pair for pair in history if not any(_leaks(pair, query, task) for query in queries)]
    skipped += len(profile) - len(history)
    return User(user_id, kept, queries, pool, len(history) - len(kept), skipped)


def _leaks(pair: Pair, query: Pair, task: Task) -> bool:
    """Tell whether a history item reveals a question's answer: same film for labels, same text for generation.

    Texts count as the same if ROUGE cannot tell them apart, so regardless of capitals and punctuation.
    """
    known, asked = (pair.source, query.source) if task.labels else (pair.target, query.target)
    return _words(known) == _words(asked)


@lru_cache(maxsize=4096)
def _words(text: str) -> list[str]:
    # ROUGE only knows Latin letters and digits; a text without any is compared by its space-separated parts.
    return _ROUGE_WORD.findall(text.lower()) or text.split()
