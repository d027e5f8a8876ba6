"""What is in LaMP files, as a table: users, lengths, labels, leaks, tokens."""

from collections import Counter

import numpy as np
from rich.table import Table
from transformers import AutoTokenizer

from configs.errors import InputError
from configs.load import load_config
from fl_clients import backbone as backbones
from fl_clients.batches import Encoder
from fl_clients.lamp.readers import Pair, Source

_TOKENISED = 5000
"""Texts whose tokens are counted at most: enough for percentiles, and no minute of waiting on a large file."""


def inspect_table(source: Source, backbone: str | None) -> Table:
    """Read every user and tabulate what was found.

    Args:
        source: Where the users are.
        backbone: Count tokens with its tokenizer; None: do not.

    Raises:
        InputError: The files are malformed or empty, or the backbone's tokenizer cannot be loaded.
    """
    histories: list[int] = []
    questions = leaks = 0
    golds: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    pools: Counter[str] = Counter()
    pairs: list[Pair] = []
    for user in source.users():
        histories.append(len(user.history))
        questions += len(user.queries)
        leaks += user.leaks
        pools[user.pool] += 1
        golds.update(query.target for query in user.queries)
        labels.update(pair.target for pair in user.history)
        room = max(0, _TOKENISED - len(pairs)) if backbone else 0
        pairs += (user.history + user.queries)[:room]
    if not histories:
        raise InputError(f"{source.path}: no users in it")
    table = Table(title=f"{source.path} ({source.layout} layout)", show_header=False)
    table.add_row("users", f"{len(histories):,}")
    for pool in ("collective", "target"):
        if pools[pool]:
            table.add_row(f"  {pool} by the files", f"{pools[pool]:,}")
    table.add_row("questions", f"{questions:,}")
    table.add_row("history items", f"{sum(histories):,}")
    table.add_row("history length", _lengths(histories))
    table.add_row("empty histories", f"{sum(length == 0 for length in histories):,}")
    table.add_row("leaks dropped", f"{leaks:,}")
    if source.task.labels:
        table.add_section()
        for label in source.task.labels:
            table.add_row(label, f"{labels[label]:,} in histories, {golds[label]:,} golds")
    if backbone:
        table.add_section()
        for title, row in _token_rows(source, backbone, pairs):
            table.add_row(title, row)
    return table


def _token_rows(source: Source, backbone: str, pairs: list[Pair]) -> list[tuple[str, str]]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbones.find(backbone))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"--backbone: the tokenizer of '{backbone}' cannot be loaded: {reason}") from None
    limit = load_config(None, [f"task={source.task.name}"]).personal.max_tokens
    examples = Encoder(source.task, tokenizer).examples(pairs, 1 << 30)
    prompts, answers = [len(each.prompt) for each in examples], [len(each.answer) for each in examples]
    longer = sum(len(example) > limit for example in examples)
    counted = f"{len(pairs):,} texts, {backbone}"
    return [
        (f"prompt tokens ({counted})", _lengths(prompts)),
        ("answer tokens", _lengths(answers)),
        (f"cut at max_tokens={limit}", f"{longer:,}"),
    ]


def _lengths(values: list[int]) -> str:
    low, median, high, top = np.percentile(values, [0, 50, 90, 100])
    return f"min {low:.0f}, median {median:.0f}, p90 {high:.0f}, max {top:.0f}"
