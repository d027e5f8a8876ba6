"""What is in LaMP files, as a table: users, lengths, labels, leaks, tokens."""

import random
from collections import Counter

import numpy as np
from rich.table import Table

from configs.errors import InputError
from configs.load import load_config
from fl_clients.backbone import read_tokenizer
from fl_clients.batches import Encoder
from fl_clients.lamp.readers import Pair, Source

_SAMPLE = 5000
"""Texts whose tokens are counted at most, drawn evenly: enough for percentiles, quick on a large file."""


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
    tokenizer = read_tokenizer(backbone) if backbone else None
    sample: list[Pair] = []
    seen = skipped = 0
    draw = random.Random(0)
    for user in source.users():
        histories.append(len(user.history))
        questions += len(user.queries)
        leaks += user.leaks
        pools[user.pool] += 1
        golds.update(query.target for query in user.queries)
        labels.update(pair.target for pair in user.history)
        skipped += user.skipped
        for pair in user.history + user.queries if tokenizer else []:
            # Reservoir sampling: each of the texts so far is in the sample with the same probability.
            seen += 1
            if len(sample) < _SAMPLE:
                sample.append(pair)
            elif (place := draw.randrange(seen)) < _SAMPLE:
                sample[place] = pair
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
    table.add_row("skipped (no text, or no gold)", f"{skipped:,}")
    if source.task.labels:
        table.add_section()
        for label in source.task.labels:
            table.add_row(label, f"{labels[label]:,} in histories, {golds[label]:,} golds")
    if tokenizer:
        table.add_section()
        examples = Encoder(source.task, tokenizer).examples(sample, 1 << 30)
        limit = load_config(None, [f"task={source.task.name}"]).personal.max_tokens
        of = f"of {seen:,} texts" if len(sample) == seen else f"of {_SAMPLE:,} of {seen:,} texts"
        table.add_row(f"prompt tokens {of}", _lengths([len(example.prompt) for example in examples]))
        table.add_row(f"answer tokens {of}", _lengths([len(example.answer) for example in examples]))
        longer = sum(len(example) > limit for example in examples)
        table.add_row(f"longer than max_tokens={limit}", f"{longer:,} ({longer / max(1, len(sample)):.1%})")
    return table


def _lengths(values: list[int]) -> str:
    low, median, high, top = np.percentile(values, [0, 50, 90, 100])
    return f"min {low:.0f}, median {median:.0f}, p90 {high:.0f}, max {top:.0f}"
