"""`audit.json`: what an attacker learns from a completed run, with intervals over users, against guessing."""

from typing import Literal

from pydantic import Field

from simulations.experiments.result_file import Part, ResultFile

SCHEMA: Literal[1] = 1


class Attack(Part):
    """An attack that ranks candidates by a score."""

    auc: float
    """Chance that a member's score is above a non-member's; guessing has 0.5."""
    interval: tuple[float, float]
    """95 %, by bootstrap over users."""
    tpr_at_1_percent: float | None
    """Share of members found at 1 % false alarms; None with fewer than 100 non-members."""
    tpr_interval: tuple[float, float] | None = Field(None)
    """95 %, by the same bootstrap."""
    members: int
    non_members: int


class Guess(Part):
    """An attack that names one of several answers."""

    accuracy: float
    interval: tuple[float, float]
    """95 %, over users: Clopper-Pearson, or by bootstrap where every user has several answers."""
    by_chance: float
    """Accuracy without what was sent: the most frequent answer, one over the number of users, or the others' taste."""
    users: int


class Bits(Part):
    """A mean over users, in bits."""

    mean: float
    interval: tuple[float, float] | None
    """95 %, by bootstrap over users; None with fewer than five."""
    users: int


class Exposure(Part):
    """How well a model remembers canaries that were planted equally often (arXiv 1802.08232).

    log₂(256) − log₂(rank) bits, by the canary's rank among itself and 255 items like it by base loss − loss: 8 if it
    is always first, 1.42 on average for a model that knows nothing of it.
    """

    repeats: int
    """How often a canary was in its user's history; 0: left out by a coin."""
    shared: Bits | None
    """Of the shared tensors, over collective users; None if no canary fits."""
    served: Bits | None
    """Of the model that a target user is served, over target users; None without a personal part."""


class Audit(ResultFile):
    """One audited run."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: str
    run: str
    """The run record, relative to the audit's folder."""
    method: str
    task: str
    shared_items: Attack
    """Was this item in the training of the shared tensors? Score: base loss − loss."""
    shared_users: Attack
    """Was this user? The same, mean over the user's items."""
    served_items: Attack | None = Field(None)
    """Was this item in a target user's stage 2? None without a personal part."""
    shadows: Attack | None = Field(None)
    """Was this user in the training? By likelihood ratio over shadow runs."""
    shadow_runs: int = Field(0)
    usual_answer: Guess | None = Field(None)
    """A user's most frequent answer, from one update; None for texts, with masks, or with fewer than ten users."""
    taste: Guess | None = Field(None)
    """Which of two options a synthetic user prefers, from one update, over all pairs of options of a slot; otherwise as
    `usual_answer`."""
    linked: Guess | None = Field(None)
    """Which user sent this update, from another update of every user."""
    exposures: list[Exposure] = Field([])
    """By number of repeats; empty without `users.canaries`."""
    epsilon_at_least: float | None = Field(None)
    """What guessing the canaries' coins proves of ε, with 95 % confidence; None without `users.canaries`."""
    epsilon_suggested: float
    """What the attack on users suggests that ε is at least. No proof: no coin drew who took part."""
    epsilon_at_most: float | None = Field(None)
    """The accountant's; None without differential privacy."""
