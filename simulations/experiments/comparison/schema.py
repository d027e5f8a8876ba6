"""`compare.json`: what a comparison found. Figures are means over seeds unless they say otherwise."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from simulations.experiments.result_file import Part, ResultFile
from strategies.metrics.statistics import LOWER_IS_BETTER, is_worse

SCHEMA: Literal[5] = 5


class Spread(Part):
    """A figure over seeds."""

    mean: float
    std: float | None
    """Standard deviation over seeds; None with one seed."""
    per_seed: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the mean, the standard deviation and the values, one per seed."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(mean=float(np.mean(values)), std=deviation, per_seed=list(values))


class PairedTest(Part):
    """Two sets of runs compared user by user."""

    difference: float
    """Mean over users, one minus the other."""
    per_seed: list[float]
    """The same, seed by seed."""
    interval: tuple[float, float] | None
    """95 % interval of the difference; it covers the bootstrap interval over users and Student's over seeds. None with
    fewer than two of both."""
    p_users: float
    """Of a two-sided sign-flip permutation test over users."""
    p_seeds: float | None
    """Of Student's t over seeds; None with one seed, which says nothing about the variation between trainings."""
    p_value: float
    """The larger of the two."""
    p_adjusted: float
    """The same by Holm's correction for all tests of the table."""
    users: int
    within_noise: bool
    """p_adjusted ≥ 0.05."""


class Control(Spread):
    """Target users' quality, before any training of theirs, with what they could be sent in place of their own."""

    own: Spread | None = Field(None)
    """With their own adapter; None in older comparisons."""
    gain: PairedTest | None = Field(None)
    """What is their own against this; None in older comparisons, and where a client failed in the control."""


class QualityAtBytes(Spread):
    """Quality at the last evaluated round within a budget of bytes."""

    against: PairedTest | None
    """The test against the reference within the same bytes; None for the reference itself."""


class MethodCodecs(Part):
    """How a method's numbers are written, and how many times fewer bytes that is than fp32 (`wire.up`, `wire.down`)."""

    up: str
    down: str
    ratio_up: float
    ratio_down: float


class MethodBytes(Part):
    """Bytes of serialised messages."""

    per_client_round_up: float
    per_client_round_down: float
    in_all: float
    """All clients, both ways, at the end of the curve."""
    codecs: MethodCodecs | None = Field(None)
    """None if all numbers are sent as they are."""


class BytesToReach(Part):
    """Bytes spent until a share of the best quality was first seen; None if it never was."""

    mean_curve: float | None
    per_seed: list[float | None]
    """Of the best quality with that seed."""


class LearningRates(Part):
    """Of stage 1 and stage 2; None where a method has no such stage."""

    local: float | None
    personal: float | None


class MethodParameters(Part):
    """Numbers that travel, and that each user keeps."""

    shared: int
    private: int


class Seconds(Part):
    """Seconds of local computation, mean over clients; None where there is no such task."""

    opening: float | None
    train: float | None
    personalize: float | None


class ComparedMethod(Part):
    """One method of a comparison."""

    method: str
    quality: Spread
    """The main metric over all target questions, after personalisation."""
    quality_collective: Spread
    """The same with the collective shift only."""
    bytes: MethodBytes
    bytes_to_reach: dict[str, BytesToReach]
    """By share of the best quality."""
    bytes_to_match: BytesToReach | None = Field(None)
    """Until the reference's final quality; None in comparisons of earlier versions."""
    quality_at_equal_bytes: list[QualityAtBytes | None]
    """For each of the comparison's `equal_bytes`; None if first evaluated beyond it."""
    learning_rates: LearningRates
    params: MethodParameters
    seconds: Seconds
    against: PairedTest | None
    """The test against the reference; None for the reference itself."""
    agreement: dict[str, dict[str, Spread]] = Field({})
    """By `agree` and `differ` and by evaluation point, for synthetic users."""
    exchanged: Spread | None = Field(None)
    """After a stage 2 on another target user's history, from the same shared tensors."""
    epsilon: float | None = Field(None)
    """ε of stage 1 (`PrivacyPart`), the largest over seeds; None without differential privacy."""
    controls: dict[str, Control] = Field({})
    """By control (`Method.server_controls`)."""


class ComparedRunEntry(Part):
    """Where a run of the comparison is."""

    method: str
    seed: int
    folder: str
    """Relative to the comparison's folder."""
    commit: str | None
    dirty: bool | None
    """Run from a checkout with uncommitted changes."""


class UserCounts(Part):
    """Numbers of users."""

    collective: int
    target: int


class Comparison(ResultFile):
    """The content of `compare.json`."""

    name: str
    schema_version: Literal[5] = Field(SCHEMA, alias="schema")
    task: str
    backbone: str
    metric: str
    lower_is_better: bool
    seeds: list[int]
    users: UserCounts
    reference: str
    """The method that all others are tested against."""
    best: str
    equal_bytes: list[float]
    """Budgets of bytes at which all methods are compared."""
    other_settings: dict[str, dict[str, Any]]
    """Config keys in which methods differ beyond what they are, with each method's value."""
    base: Spread
    """The bare backbone."""
    baselines: dict[str, Spread] = Field({})
    """Answers that need no model (`Baseline`); older records have fewer or none."""
    bounds: dict[str, Spread] = Field({})
    """The best reachable scores on synthetic users (`OraclePart`)."""
    methods: list[ComparedMethod]
    runs: list[ComparedRunEntry]

    def below_baseline(self, quality: float) -> str | None:
        """Return the best baseline if a quality is below it, else None."""
        better = [name for name, spread in self.baselines.items() if is_worse(quality, spread.mean, self.metric)]
        pick = min if self.metric in LOWER_IS_BETTER else max
        return pick(better, key=lambda name: self.baselines[name].mean, default=None)
