"""Canaries: made-up items in users' histories, by which an audit tells what a model remembers (arXiv 1802.08232)."""

from dataclasses import replace

import numpy as np

from configs.seeds import derive_seed
from fl_clients.lamp.tasks import Task
from fl_clients.lamp.user import Pair, User

REPEATS = (1, 4, 16)
"""How often a user's canary is in its history: by partition, in turn, unless a coin leaves it out."""
CANDIDATES = 255
"""Items that could have been a canary and were not."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def repeats_of(partition: int, collective: bool, seed: int) -> int:
    """Return how often this user's canary is planted.

    For a collective user a coin decides whether it is: only then does a guess at the coins prove something of ε
    (arXiv 2305.08846).
    """
    out = collective and np.random.default_rng(derive_seed(seed, "canary's coin", partition)).random() < 0.5
    return 0 if out else REPEATS[partition % len(REPEATS)]


def canary_of(partition: int, task: Task, seed: int) -> Pair:
    """Return a user's canary: words that do not exist and, for tasks with labels, the label of all canaries."""
    return _made_up(task, seed, "canary", partition)


def candidates(task: Task, seed: int) -> list[Pair]:
    """Return items that are drawn as canaries are and are in no history."""
    return [_made_up(task, seed, "candidate", number) for number in range(CANDIDATES)]


def is_canary(pair: Pair) -> bool:
    """Whether this item was planted."""
    return pair.item_id.startswith("canary-")


def with_canary(user: User, partition: int, task: Task, repeats: int, seed: int) -> User:
    """Return the user with its canary at the end of its history."""
    return replace(user, history=user.history + [canary_of(partition, task, seed)] * repeats)


def _made_up(task: Task, seed: int, kind: str, number: int) -> Pair:
    generator = np.random.default_rng(derive_seed(seed, kind, number))
    source = _words(6, generator)
    if not task.labels:
        return Pair(f"{kind}-{number}", source, _words(4, generator))
    # One label for all: how likely a label is must not tell canaries from candidates.
    label = np.random.default_rng(derive_seed(seed, "canaries' label")).integers(len(task.labels))
    return Pair(f"{kind}-{number}", source, task.labels[label])


def _words(count: int, generator: np.random.Generator) -> str:
    def word() -> str:
        return "".join(
            _CONSONANTS[generator.integers(len(_CONSONANTS))] + _VOWELS[generator.integers(len(_VOWELS))]
            for _ in range(3)
        )

    return " ".join(word() for _ in range(count))
