"""The contents of LaMP files: users, lengths, labels, leaks, tokens."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from configs.errors import InputError
from configs.load import load_config
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.load import read_tokenizer
from fl_clients.lamp.notes import DataNotes
from fl_clients.lamp.readers import Source
from fl_clients.lamp.tasks import Task
from fl_clients.lamp.user import Pair, User, revealing_keys
from simulations.display.output import printable
from simulations.display.tables import new_table

_SAMPLE = 5000
"""Maximum number of texts whose tokens are counted, sampled uniformly: enough for percentiles, quick on large files."""


def inspect_source(source: Source, backbone: str | None) -> dict[str, Any]:
    """Read every user and count users, questions, labels, leaks and tokens.

    Args:
        source: The source of users.
        backbone: The backbone whose tokenizer counts tokens; None: do not count tokens.

    Raises:
        InputError: The files are malformed or empty, or the backbone's tokenizer cannot be loaded.
    """
    histories: list[int] = []
    letters: dict[str, list[int]] = {"source": [], "target": []}
    questions = leaks = skipped = 0
    notes = DataNotes()
    held = _Held(source.task)
    golds, labels, pools = Counter[str](), Counter[str](), Counter[str]()
    tokenizer = read_tokenizer(backbone) if backbone else None
    sample = _Sample()
    for user in source.users():
        histories.append(len(user.history))
        questions += len(user.queries)
        leaks += user.leaks
        pools[user.pool] += 1
        golds.update(query.target for query in user.queries)
        labels.update(pair.target for pair in user.history)
        skipped += user.skipped
        notes.add(user, source.task, user.pool != "collective", "latin")
        held.add(user)
        for pair in user.history + user.queries:
            letters["source"].append(len(pair.source))
            letters["target"].append(len(pair.target))
        if tokenizer:
            sample.add(user.history + user.queries)
    if not histories:
        raise InputError(f"{source.path}: no users")
    inspected = {
        "path": str(source.path),
        "layout": source.layout,
        "task": source.task.name,
        "users": len(histories),
        "pools": {pool: pools[pool] for pool in ("collective", "target") if pools[pool]},
        "questions": questions,
        "history_items": sum(histories),
        "history_length": _lengths(histories),
        "characters": {name: _lengths(counts or [0]) for name, counts in letters.items()},
        "empty_histories": sum(length == 0 for length in histories),
        "leaks": leaks,
        "leaks_between_users": held.count(),
        **_noted(notes),
        "skipped": skipped,
        "labels": {label: {"histories": labels[label], "golds": golds[label]} for label in source.task.labels},
    }
    if tokenizer:
        inspected["tokens"] = _count_tokens(source.task, tokenizer, sample)
    return inspected


def _noted(notes: DataNotes) -> dict[str, int]:
    return {
        "joined_questions": notes.joined,
        "joined_users": notes.people,
        "unread_dates": notes.unread_dates,
        "golds_in_other_scripts": notes.unseen,
    }


class _Held:
    """Counts questions that another user's examples hold, or, if answers are texts, the golds of."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._holders: dict[bytes, set[str]] = {}
        self._asked: list[tuple[str, set[bytes]]] = []

    def add(self, user: User) -> None:
        for pair in user.history + user.queries:
            for words in revealing_keys(pair, self._task):
                holders = self._holders.setdefault(words, set())
                if len(holders) < 2:  # another one than the asker is enough
                    holders.add(user.user_id)
        self._asked += [(user.user_id, revealing_keys(query, self._task)) for query in user.queries]

    def count(self) -> int:
        return sum(any(self._holders[each] - {user_id} for each in words) for user_id, words in self._asked)


class _Sample:
    """An even sample of texts, drawn while they pass (reservoir sampling)."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.seen = 0
        self._draw = random.Random(0)

    def add(self, pairs: Sequence[Pair]) -> None:
        for pair in pairs:
            self.seen += 1
            if len(self.pairs) < _SAMPLE:
                self.pairs.append(pair)
            elif (place := self._draw.randrange(self.seen)) < _SAMPLE:
                self.pairs[place] = pair


def _count_tokens(task: Task, tokenizer: PreTrainedTokenizerBase, sample: _Sample) -> dict[str, Any]:
    examples = Encoder(task, tokenizer).examples(sample.pairs, 1 << 30)
    limit = load_config(None, [f"task={task.name}"]).personal.max_tokens
    return {
        "texts": sample.seen,
        "counted": len(sample.pairs),
        "prompt": _lengths([len(example.prompt) for example in examples]),
        "answer": _lengths([len(example.answer) for example in examples]),
        "max_tokens": limit,
        "longer": sum(len(example) > limit for example in examples),
    }


def inspection_table(source: dict[str, Any]) -> Table:
    """Tabulate `inspect_source`."""
    layout = {"lamp": "LaMP's official files", "oppu": "OPPU's folder"}[source["layout"]]
    table = new_table(title=f"{source['path']}: {source['task']}, {layout}", show_header=False)
    table.add_row("users", f"{source['users']:,}")
    for pool, count in source["pools"].items():
        table.add_row(f"  {pool}, as marked in the files", f"{count:,}")
    table.add_row("questions", f"{source['questions']:,}")
    table.add_row("history items", f"{source['history_items']:,}")
    table.add_row("history items of a user", _spread(source["history_length"]))
    table.add_row("users without history", f"{source['empty_histories']:,}")
    table.add_row("characters of a text", _spread(source["characters"]["source"]))
    table.add_row("characters of an answer", _spread(source["characters"]["target"]))
    table.add_row("left out: items that hold an answer", f"{source['leaks']:,}")
    table.add_row("questions others' examples reveal", f"{source['leaks_between_users']:,}")
    table.add_row("left out: no text or no answer", f"{source['skipped']:,}")
    if source["joined_questions"]:
        table.add_row(
            "questions joined by their profiles",
            f"{source['joined_questions']:,} of {source['joined_users']:,} users",
        )
    if source["unread_dates"]:
        table.add_row("users whose dates cannot all be read (file's order)", f"{source['unread_dates']:,}")
    if source["golds_in_other_scripts"]:
        title = "golds that LaMP's ROUGE does not see (set evaluate.words=unicode)"
        table.add_row(title, f"{source['golds_in_other_scripts']:,}")
    if source["labels"]:
        table.add_section()
        for label, counts in source["labels"].items():
            table.add_row(f"label {printable(label)}", f"{counts['histories']:,} items, {counts['golds']:,} questions")
    if tokens := source.get("tokens"):
        table.add_section()
        texts, counted = tokens["texts"], tokens["counted"]
        of = f"of {texts:,} texts" if counted == texts else f"of {counted:,} of {texts:,} texts"
        table.add_row(f"tokens of a prompt {of}", _spread(tokens["prompt"]))
        table.add_row(f"tokens of an answer {of}", _spread(tokens["answer"]))
        share = tokens["longer"] / max(1, counted)
        table.add_row(f"longer than max_tokens={tokens['max_tokens']}", f"{tokens['longer']:,} ({share:.1%})")
    return table


def _lengths(values: list[int]) -> dict[str, float]:
    return dict(zip(("min", "median", "p90", "max"), np.percentile(values, [0, 50, 90, 100]).tolist(), strict=True))


def _spread(lengths: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.0f}" for key, value in lengths.items())
