"""`cold_start.json`: what a cold-start experiment found. Figures are means over seeds unless they say otherwise."""

from typing import Any, Literal

from pydantic import Field

from simulations.experiments.comparison.schema import Control, PairedTest, Spread
from simulations.experiments.result_file import Part, ResultFile

SCHEMA: Literal[7] = 7


class TaskSettings(Part):
    """What the figures of a task were measured with."""

    task: str
    backbone: str
    seeds: list[int]
    target_users: int
    rounds: int
    cohorts: dict[str, int]
    """Cohort by number of collective users."""
    base: Spread
    """The bare backbone."""
    baselines: dict[str, Spread] = Field({})
    """Answers that need no model (`strategies.metrics.points.Baseline`)."""
    other_settings: dict[str, dict[str, Any]]
    """Config keys in which methods differ beyond what they are, with each method's value."""


class NumberRow(Part):
    """One method after stage 1 on a number of collective users (the paper's Table 14)."""

    task: str
    metric: str
    second_metric: str | None
    collective: int
    method: str
    value: float
    second_value: float | None
    value_collective: float
    """With the collective shift only."""
    worst_decile: float
    """The 10th percentile over target users; the 90th of an error."""
    q1: float | None
    """Mean quality of the quarter of target users with the shortest histories; None if histories are alike."""
    q2: float | None
    q3: float | None
    q4: float | None
    trained: float
    """Collective users who took part in at least one round."""
    bytes_total: float
    newcomer_bytes: float
    value_deviation: float | None
    """Standard deviation over seeds; None with one seed."""
    second_value_deviation: float | None
    value_collective_deviation: float | None


class Side(Part):
    """One side of a test."""

    method: str
    collective: int
    worst_decile: float


class Sides(Part):
    """What a test compares."""

    task: str
    metric: str
    one: Side
    other: Side


class Difference(PairedTest, Sides):
    """A test of two methods, or of two numbers of collective users."""


class NearFinal(Part):
    """The shortest training from which all longer ones are near the final quality."""

    epochs: int
    steps: float
    seconds: float | None


class HistoryLevel(Spread):
    """Quality of newcomers who bring a number of items."""

    worst_decile: float
    items: float
    """What they bring on average: some have fewer."""
    steps: float


class NewcomerRow(Part):
    """What a newcomer pays and gets."""

    task: str
    metric: str
    method: str
    collective: int
    download_bytes: float
    upload_bytes: float
    """Before it is served first, if what it is sent depends on that (`Method.introduces`)."""
    final: Spread
    epochs_tried: list[int]
    near_final: NearFinal | None
    near_final_per_seed: list[int | None]
    by_history: dict[str, HistoryLevel]
    """`0`, the numbers tried, `all`."""


class ControlsRow(Part):
    """What newcomers could be sent in place of their own adapter (`Method.server_controls`)."""

    task: str
    metric: str
    method: str
    collective: int
    controls: dict[str, Control]


class CompositionRow(Part):
    """Groups of one size (the paper's Table 15)."""

    task: str
    metric: str
    method: str
    collective: int
    groups: list[float]
    mean: float
    worst_decile: float | None
    variance: float
    """Over the groups of a seed, then the mean over seeds."""
    range: float


Matrix = dict[str, dict[str, float | None]]
"""By the task a shift was trained on, then the task it was used on."""


class TransferMatrices(Part):
    """One method's collective shifts used on other tasks (the paper's Table 16)."""

    value: Matrix
    deviation: Matrix
    second_value: Matrix
    worst_decile: Matrix


class Transfer(Part):
    """Shifts used on other tasks."""

    collective: int
    metrics: dict[str, str]
    """Main metric by task."""
    methods: dict[str, TransferMatrices]


class ColdStart(ResultFile):
    """The content of `cold_start.json`."""

    name: str
    schema_version: Literal[7] = Field(SCHEMA, alias="schema")
    settings: list[TaskSettings]
    uncommitted: list[str]
    """Runs from a checkout with uncommitted changes."""
    numbers: list[NumberRow]
    differences: list[Difference]
    newcomers: list[NewcomerRow]
    controls: list[ControlsRow] = Field([])
    compositions: list[CompositionRow]
    transfer: Transfer | None
