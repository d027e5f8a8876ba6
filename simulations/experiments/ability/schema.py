"""`ability.json`: general ability of the bare backbone, with the collective part, and with users' models."""

from typing import Literal

from pydantic import Field

from simulations.experiments.result_file import Part, ResultFile

SCHEMA: Literal[1] = 1


class Difference(Part):
    """Mean difference over the items of a task; for users' models, the mean over the users is compared."""

    mean: float
    interval: tuple[float, float]
    """95 %, by bootstrap over items."""


class TaskAbility(Part):
    """One task of lm-eval, or the texts."""

    task: str
    metric: str
    items: int
    base: float
    """Mean over the items."""
    collective: Difference
    """Collective part − bare backbone."""
    personalised: Difference | None = Field(None)
    """Users' models − bare backbone; None without a personal part."""


class Ability(ResultFile):
    """One run's models on general tasks."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: str
    run: str
    """The run record, relative to the folder of results."""
    method: str
    users: list[str]
    """Whose models were asked."""
    tasks: list[TaskAbility]
