"""What is planted: every choice a user makes follows worths that are partly everybody's and partly its own.

Option o of slot s has a collective worth c_{s,o} (evenly spaced, shuffled by the seed, unit variance); user u values it
at c_{s,o} + deviation·ε_{u,s,o}, ε standard normal. A slot is one kind of choice: which theme of a film names its tag,
which word opens a headline. So the best score without knowing the user is reached with the worths c, and the best at
all with the user's own: the two oracles.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Taste = dict[str, np.ndarray]
"""Worths by slot; shape [options]."""


@dataclass(frozen=True)
class Item:
    """One thing a user labelled, rated or wrote."""

    source: str
    target: str
    personalised: float
    """Score of the best answer to `source` that knows the user, judged by `target`."""
    collective: float
    """Score of the best answer that does not."""


@dataclass(frozen=True)
class Generator:
    """How one task's synthetic users are made."""

    slots: Mapping[str, int]
    """Number of options by slot."""
    item: Callable[[Taste, Taste, float, np.random.Generator], Item]
    """Draws an item from the user's own taste, the collective one, the noise and a generator."""
    fields: Callable[[Item], dict[str, Any]]
    """A history item's fields, as LaMP names them."""
    question: str
    """A question's text, with `{source}`; LaMP's wording."""
    metric: Literal["accuracy", "mae", "rouge1"]
    """What `Item.personalised` and `Item.collective` are in."""


def collective_taste(slots: Mapping[str, int], generator: np.random.Generator) -> Taste:
    """Return c: per slot mean 0 and variance 1, in an order drawn from `generator`; 0 for a single option."""
    taste: Taste = {}
    for slot, options in slots.items():
        ladder = np.linspace(-1, 1, options) if options > 1 else np.zeros(1)
        shuffled = generator.permutation(ladder)
        taste[slot] = np.asarray(shuffled / (shuffled.std() or 1.0))
    return taste


def personal_taste(collective: Taste, deviation: float, generator: np.random.Generator) -> Taste:
    """Return one user's worths: c plus `deviation` times a standard normal draw."""
    return {slot: worth + deviation * generator.standard_normal(len(worth)) for slot, worth in collective.items()}
