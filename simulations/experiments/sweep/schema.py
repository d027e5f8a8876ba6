"""`sweep.json`: what a sweep found."""

from typing import Literal

from pydantic import Field

from simulations.experiments.comparison.schema import PairedTest, Spread
from simulations.experiments.result_file import Part, ResultFile

SCHEMA: Literal[1] = 1


class SweepCell(Part):
    """One method with one combination of values."""

    method: str
    values: list[str]
    """In the order of the sweep's keys, as typed."""
    quality: Spread
    """The main metric after personalisation, pooled over all target questions."""
    quality_collective: Spread
    """The same after stage 1."""
    against_best: PairedTest | None = Field(None)
    """The difference to the best cell; None for that cell and for cells with other users."""
    base: Spread
    """The same with the bare backbone, which may differ if the backbone varies."""
    epsilon: float | None = Field(None)
    """ε of stage 1, the largest over seeds; None without differential privacy, or without noise."""
    bytes: float
    """Of stage 1 and one download per target user, mean over seeds."""
    seconds: float
    """Wall time of a run, mean over seeds."""
    shared: int
    """Numbers that a client sends in a round."""
    private: int
    """Numbers that a user keeps."""
    folders: list[str]
    """The run records, relative to the sweep's folder, one per seed."""


class Sweep(ResultFile):
    """A grid of settings, measured."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: str
    keys: list[str]
    seeds: list[int]
    task: str
    """Empty if it varies."""
    backbone: str
    """Likewise."""
    metric: str
    lower_is_better: bool
    cells: list[SweepCell]
