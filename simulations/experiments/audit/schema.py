"""`audit.json`: what an attacker learns from a completed run, with intervals over users, against guessing."""

from typing import Literal

from pydantic import Field

from simulations.experiments.comparison.schema import Part

SCHEMA: Literal[1] = 1


class Attack(Part):
    """An attack that ranks candidates by a score."""

    auc: float
    """Chance that a member's score is above a non-member's; guessing has 0.5."""
    interval: tuple[float, float]
    """95 %, by bootstrap over users."""
    tpr_at_1_percent: float | None
    """Share of members found at 1 % false alarms; None with fewer than 100 non-members."""
    members: int
    non_members: int


class Guess(Part):
    """An attack that names one of several answers."""

    accuracy: float
    interval: tuple[float, float]
    """95 %, over users (Clopper-Pearson)."""
    by_chance: float
    """Accuracy without what was sent: the most frequent answer, or one over the number of users."""
    users: int


class Audit(Part):
    """One audited run."""

    format: Literal[1] = Field(SCHEMA, alias="schema")
    name: str
    run: str
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
    linked: Guess | None = Field(None)
    """Which user sent this update, from another update of every user."""
    epsilon_suggested: float
    """What the attack on users suggests that ε is at least. No proof: one run, whose members no coin drew."""
    epsilon_at_most: float | None = Field(None)
    """The accountant's; None without differential privacy."""

    def to_json(self) -> str:
        """Return the content of `audit.json`."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"
