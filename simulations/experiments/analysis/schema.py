"""`analysis.json`: what users' δ-vectors look like."""

from typing import Literal

from pydantic import Field

from simulations.experiments.result_file import Part, ResultFile

SCHEMA: Literal[1] = 1


class SiteAnalysis(Part):
    """One site."""

    site: int
    ranks: dict[str, int]
    """Directions that hold a share of the variance, not centred (PerFit, Tables 1 and 5)."""
    mean_share: float
    """‖mean δ‖² / mean ‖δ‖²: 1 if all users' vectors are the same."""
    coordinates_mean: list[float]
    """Along the first directions, mean over users (Figures 2 and 7)."""
    coordinates_deviation: list[float]
    """Likewise, standard deviation over users."""
    control: list[float]
    """Mean |coordinate| with made-up words over that of δ, along each of the first directions (Figure 9)."""
    control_cosine: float
    """Of the mean δ and the mean of the control."""


class TrainedSite(Part):
    """What a trained run's collective shift has to do with the collective direction at one site."""

    site: int
    rank: int
    share_in_span: float
    """Of ‖mean δ‖², inside the rows of R."""
    by_chance: float
    """r/d: the same for a random R."""


class Taste(Part):
    """Whether users with alike answers have alike personalised shifts (Mantel's test)."""

    users: int
    correlation: float
    """Of distances between users' b⁽²⁾ and between their counts of answers."""
    p_value: float


class Together(Part):
    """Several tasks' collective directions at one site (PerFit, Figure 16)."""

    site: int
    names: list[str]
    """Of the analyses."""
    tasks: list[str]
    cosines: list[list[float]]
    """Of the tasks' mean δ-vectors, each with each."""
    control: list[list[float]]
    """Likewise, of the vectors with made-up words."""


class Analysis(ResultFile):
    """One task's users."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: str
    run: str
    """The run record with the vectors, relative to the analysis' folder."""
    task: str
    backbone: str
    users: int
    left_out: int
    """Users without two items."""
    sites: list[SiteAnalysis]
    nearest: list[str]
    """Ids of users whose vector is nearest to the mean's direction, at the middle site (Figure 12)."""
    middle: list[str]
    farthest: list[str]
    trained: list[TrainedSite] = Field([])
    taste: Taste | None = Field(None)
    together: Together | None = Field(None)
