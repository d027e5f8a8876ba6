"""Turns the records of LaMP files into questions with golds and into users."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import InputError
from fl_clients.lamp.dates import is_date, read_date
from fl_clients.lamp.json_stream import read_objects
from fl_clients.lamp.tasks import TASKS, Task, read_text
from fl_clients.lamp.user import Pair, Pool, User, revealing_keys


def read_golds(path: Path, task: Task) -> dict[str, str]:
    """Return the golds of an outputs file by question id; an empty gold is the empty text.

    Args:
        path: LaMP's `{"task": …, "golds": [{"id": …, "output": …}]}`, or only such golds, as a list or one per line.
        task: The task of the golds.

    Raises:
        InputError: The file is missing, malformed, or of another task.
    """
    if not path.is_file():
        raise InputError(f"{path}: missing; it holds the questions' golds")
    golds: Any = read_objects(path)
    if len(golds) == 1 and "golds" in golds[0]:
        name = str(golds[0].get("task", task.lamp_names[0]))
        if name.replace("-", "_") not in task.lamp_names:
            known = [other.name for other in TASKS.values() if name.replace("-", "_") in other.lamp_names]
            hint = f": these are files of task={' or task='.join(known)}" if known else ""
            raise InputError(f"{path}: golds of task {name!r}, expected {' or '.join(task.lamp_names)}{hint}")
        golds = golds[0]["golds"]
    try:
        pairs = [(identifier(gold["id"]), gold["output"]) for gold in golds]
    except (KeyError, TypeError) as error:
        expected = "{'task': …, 'golds': [{'id': …, 'output': …}]}"
        raise InputError(f"{path}: expected {expected}: {type(error).__name__}: {error}") from None
    return check_golds(pairs, task, str(path))


def check_golds(golds: list[tuple[str, Any]], task: Task, where: str) -> dict[str, str]:
    """Return golds by question id, labels in the task's spelling.

    Raises:
        InputError: An id occurs twice, or a gold is not a text, or not a label of the task.
    """
    checked: dict[str, str] = {}
    for gold_id, output in golds:
        if gold_id in checked:
            raise InputError(f"{where}: gold {gold_id!r} occurs twice")
        try:
            text = read_text(output)
            checked[gold_id] = _whole(task.read_target(text) if text else "", f"{where}: gold {gold_id!r}")
        except TypeError:
            raise InputError(f"{where}: gold {gold_id!r} is {output!r}, expected a text") from None
        except ValueError:
            raise InputError(f"{where}: gold {gold_id!r} is {output!r}, not a label of {task.name}") from None
    return checked


def user_name(record: Mapping[str, Any]) -> str | None:
    """Return a question's `user_id` as text; None if it has none, which tools write as null, NaN or an empty text.

    Raises:
        TypeError: It is neither a text nor a number.
    """
    value = record.get("user_id")
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if missing or not (name := identifier(value)).strip() else name


def identifier(value: Any) -> str:
    """Return an id as text; 12.0 is the id 12.

    Raises:
        TypeError: It is neither a text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"expected an id, not {value!r}")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_question(record: dict[str, Any], golds: dict[str, str], task: Task, where: str) -> Pair:
    """Return a question with its gold; a missing text is empty.

    Raises:
        InputError: It has no id, no gold, or is not a question of the task.
    """
    try:
        question_id, text = identifier(record.get("id")), read_text(record["input"])
    except (TypeError, KeyError):
        raise InputError(f"{where}: a question needs 'id' and a text 'input'") from None
    if question_id not in golds:
        raise InputError(f"{where}: no gold found")
    try:
        source = task.question_source(_whole(text, where)) if text else ""
        return Pair(question_id, source, golds[question_id])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def build_user(
    user_id: str, profile: Any, queries: list[Pair], task: Task, where: str, pool: Pool, skipped: int, joined: int = 0
) -> User:
    """Build a user from its questions and the items of its profile.

    Args:
        user_id: The user's id.
        profile: A list of history items; None is an empty one.
        queries: The user's questions; those without a text or a gold are skipped.
        task: The task of all of them.
        where: File and user, for errors.
        pool: The user's role in the files.
        skipped: Number of questions that are already left out.
        joined: See `User`.

    Raises:
        InputError: The profile, or one of its items, is malformed.
    """
    profile = [] if profile is None else profile
    if not isinstance(profile, list):
        raise InputError(f"{where}: 'profile' must be a list of history items")
    asked = [query for query in queries if query.source and query.target]
    history: list[Pair] = []
    dates: list[float | None] = []
    for number, item in enumerate(profile):
        if pair := _history_item(item, number, task, where):
            history.append(pair)
            dates.append(read_date(item.get("date")))
    dated = any(is_date(item.get("date")) for item in profile)
    known = [date for date in dates if date is not None]
    if len(known) == len(history):
        history = [history[i] for i in sorted(range(len(history)), key=known.__getitem__)]
    golds = {key for query in asked for key in revealing_keys(query, task)}
    kept = [pair for pair in history if not golds or not golds & revealing_keys(pair, task)]
    skipped += len(profile) - len(history) + len(queries) - len(asked)
    unread = dated and len(known) < len(history)
    return User(user_id, kept, asked, pool, len(history) - len(kept), skipped, joined, unread)


def _history_item(item: Any, number: int, task: Task, where: str) -> Pair | None:
    """Return a history item, or None if one of its texts is empty."""
    if not isinstance(item, dict):
        raise InputError(f"{where}, history item {number + 1}: expected an object, not {item!r}")
    try:
        item_id = str(item.get("id", number))
        pair = task.history_pair(item)
    except (KeyError, TypeError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where}, history item {number + 1}: not an item of {task.name}: {problem}") from None
    except ValueError as error:
        raise InputError(f"{where}, history item {item_id!r}: {error}") from None
    at = f"{where}, history item {item_id!r}"
    return pair and Pair(item_id, _whole(pair[0], at), _whole(pair[1], at))


def _whole(text: str, where: str) -> str:
    """Reject half of a surrogate pair: JSON can express it, but no text file or table can store it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    return text
