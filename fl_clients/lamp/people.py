"""Finds out which questions of official LaMP files one person asks.

LaMP calls every question a user. Several questions may be one person's, each with that person's items as its profile:
all of them, all but the question itself, or those before it. As separate users, one of them could train on the gold of
another.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fl_clients.lamp.records import identifier, user_name
from fl_clients.lamp.tasks import Task

_ALIKE = 0.5
"""Profiles belong to one person if they share this part of all their items, and at least two."""

_TELLING = 8
"""Words of an item that tells who has it, if it is a profile's only one."""

_Items = np.ndarray[Any, np.dtype[np.int64]]


def find_people(records: Iterable[Mapping[str, Any]], golds: Mapping[str, str], task: Task) -> list[str]:
    """Return for every record the id of the person who asks it.

    That is its `user_id`; without one, the id of the first question whose profile is the same person's.

    Args:
        records: The questions, in the file's order. Malformed ones are people of their own.
        golds: By question id.
        task: The task, which knows the questions' texts.
    """
    people: list[str] = []
    unnamed: list[int] = []
    profiles: list[_Items] = []
    questions: list[int] = []
    for number, record in enumerate(records):
        name = _named(record)
        people.append(_name(record.get("id"), number) if name is None else name)
        if name is None and (items := _items(record.get("profile"), task)).size:
            unnamed.append(number)
            profiles.append(items)
            questions.append(_question(record, golds, task))
    first = list(range(len(unnamed)))
    for one, other in _same(profiles, questions):
        one, other = sorted((_root(first, one), _root(first, other)))
        first[other] = one
    for place, number in enumerate(unnamed):
        people[number] = people[unnamed[_root(first, place)]]
    return people


def _root(first: list[int], place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = first[place]
    return place


def _named(record: Mapping[str, Any]) -> str | None:
    try:
        return user_name(record)
    except TypeError:
        return None


def _name(value: Any, number: int) -> str:
    try:
        return identifier(value)
    except TypeError:
        return f"number {number + 1}"


def _items(profile: Any, task: Task) -> _Items:
    """Return the different items of a profile as sorted hashes."""
    words: dict[int, int] = {}
    for item in profile if isinstance(profile, list) else []:
        try:
            if pair := task.history_pair(item):
                words[_hash(*pair, task)] = len(" ".join(pair).split())
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    # Several people may have the same few words as their only item.
    alone = len(words) == 1 and max(words.values()) < _TELLING
    return np.array([] if alone else sorted(words), np.int64)


def _hash(source: str, target: str, task: Task) -> int:
    """Return the same number for an item and for the question that it was; a text says it without its source."""
    return hash((source.strip(), target) if task.labels else target)


def _question(record: Mapping[str, Any], golds: Mapping[str, str], task: Task) -> int:
    """Return the hash that the question would have as a history item."""
    try:
        return _hash(task.question_source(record["input"]), golds[identifier(record["id"])], task)
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0


def _same(profiles: list[_Items], questions: list[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of places that one person has."""
    seen: dict[bytes, int] = {}
    for place, (items, question) in enumerate(zip(profiles, questions, strict=True)):
        # The same items; or the same items together with the question that each leaves out.
        for key in (items, np.union1d(items, [question])):
            yield seen.setdefault(key.tobytes(), place), place
    # Every item links the questions that have it, in order; that finds profiles which grow, too.
    shared: Counter[tuple[int, int]] = Counter()
    holders = np.repeat(np.arange(len(profiles)), [items.size for items in profiles])
    items = np.concatenate(profiles) if profiles else np.array([], np.int64)
    order = np.argsort(items, kind="stable")
    equal = np.flatnonzero(items[order][1:] == items[order][:-1])
    shared.update(zip(holders[order][equal].tolist(), holders[order][equal + 1].tolist(), strict=True))
    for (one, other), count in shared.items():
        both = profiles[one].size + profiles[other].size
        common = np.intersect1d(profiles[one], profiles[other], assume_unique=True).size if count > 1 else 0
        if common > 1 and common >= _ALIKE * (both - common):
            yield one, other
