"""The planted tastes: a user's choices follow worths that are partly collective and partly personal.

Option o of slot s has a collective worth c_{s,o} (evenly spaced, shuffled by the seed, unit variance); user u values it
at c_{s,o} + deviation·ε_{u,s,o}, ε standard normal. A slot is one kind of choice, such as which theme of a film gives
its tag, or which word opens a headline. There are two oracles: the best score with the user unknown follows from the
worths c, the best score with the user known from the user's worths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Taste = dict[str, np.ndarray]
"""Worths by slot; shape [options]."""


@dataclass(frozen=True)
class Item:
    """One item that a user labelled, rated or wrote."""

    source: str
    target: str
    personalised: float
    """Score against `target` of the best answer to `source`, user known."""
    collective: float
    """Score of the best answer, user unknown."""
    agrees: bool
    """The best answers with the user known and unknown are the same."""


@dataclass(frozen=True)
class Reader:
    """Reads generated items again, for a learner that knows how they were drawn."""

    read: Callable[[Sequence[str]], np.ndarray]
    """Returns what the texts say; shape [items, …]."""
    best: Callable[[Taste, np.ndarray], np.ndarray]
    """Returns the indices of the best answers to read items for tastes of shape [tastes, options];
    shape [tastes, items]."""
    likelihood: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    """Returns p(answer | best answer, noise), elementwise."""


@dataclass(frozen=True)
class Generator:
    """Generates one task's synthetic users."""

    slots: Mapping[str, int]
    """Number of options by slot."""
    item: Callable[[Taste, Taste, float, np.random.Generator], Item]
    """Draws an item, given the user's taste, the collective taste, the noise and a random generator."""
    fields: Callable[[Item], dict[str, Any]]
    """Returns a history item's fields under LaMP's names."""
    question: str
    """A question's text in LaMP's wording, with `{source}`."""
    metric: Literal["accuracy", "mae", "rouge1"]
    """The metric of `Item.personalised` and `Item.collective`."""
    reader: Reader | None = None
    """None for texts, of which a few show their author's whole style."""


def collective_taste(slots: Mapping[str, int], generator: np.random.Generator) -> Taste:
    """Return c: mean 0 and variance 1 per slot, in an order drawn from `generator`; 0 for a single option."""
    taste: Taste = {}
    for slot, options in slots.items():
        ladder = np.linspace(-1, 1, options) if options > 1 else np.zeros(1)
        shuffled = generator.permutation(ladder)
        taste[slot] = np.asarray(shuffled / (shuffled.std() or 1.0))
    return taste


def personal_taste(collective: Taste, deviation: float, generator: np.random.Generator) -> Taste:
    """Return one user's worths: c plus `deviation` times a standard normal draw."""
    return {slot: worth + deviation * generator.standard_normal(len(worth)) for slot, worth in collective.items()}
