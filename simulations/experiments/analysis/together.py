"""Analyses of several tasks side by side: do their users' vectors point the same way (PerFit, appendix B.6)?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from configs.errors import InputError
from configs.schema import RunConfig
from fl_server.record.folder import RunFolder
from simulations.experiments.analysis.numbers import cosines_of_means
from simulations.experiments.analysis.schema import Analysis, Together
from strategies.delta_vectors import DELTA, RANDOM

Vectors = dict[int, np.ndarray]
"""[sites, d] by partition."""


@dataclass(frozen=True)
class Loaded:
    """An analysis and its users' vectors at its middle site."""

    analysis: Analysis
    vectors: np.ndarray
    """δ, [users, d]."""
    control: np.ndarray
    """With made-up words, likewise."""


def by_user(tensors: dict[str, np.ndarray], prefix: str) -> Vectors:
    """Return the vectors of a run's shared tensors whose names begin with a prefix."""
    return {int(name.removeprefix(prefix)): value for name, value in tensors.items() if name.startswith(prefix)}


def stacked(vectors: Vectors) -> np.ndarray:
    """Return [users, sites, d], users by partition."""
    return np.stack([vectors[user] for user in sorted(vectors)])


def load(folder: Path) -> Loaded:
    """Load a completed analysis.

    Raises:
        InputError: The folder has none.
    """
    try:
        analysis = Analysis.model_validate_json((folder / "analysis.json").read_bytes())
        tensors = load_file(RunFolder(folder / analysis.run).shared)
        return of(analysis, *(by_user(tensors, prefix) for prefix in (DELTA, RANDOM)))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"expected a completed analysis ({error})", field="with", value=folder) from None


def of(analysis: Analysis, vectors: Vectors, control: Vectors) -> Loaded:
    """Return an analysis with its users' vectors at the middle site."""
    middle = len(analysis.sites) // 2
    return Loaded(analysis, stacked(vectors)[:, middle], stacked(control)[:, middle])


def check_comparable(config: RunConfig, others: list[Loaded]) -> None:
    """Refuse analyses of other hidden states than those of a config.

    Raises:
        InputError: An analysis has another backbone or other sites; the message names it.
    """
    ours = sites_of(config)
    for other in others:
        theirs = [each.site for each in other.analysis.sites]
        if (other.analysis.backbone, theirs) != (config.backbone, ours):
            raise InputError(
                f"it has {other.analysis.backbone}, sites {theirs}; expected {config.backbone}, sites {ours}",
                field="with",
                value=other.analysis.name,
            )


def sites_of(config: RunConfig) -> list[int]:
    """Return the sites of a resolved config."""
    assert isinstance(config.sites, list)
    return sorted(config.sites)


def together(loaded: list[Loaded]) -> Together:
    """Compare tasks' collective directions at the middle site."""
    first = loaded[0].analysis
    return Together(
        site=first.sites[len(first.sites) // 2].site,
        names=[each.analysis.name for each in loaded],
        tasks=[each.analysis.task for each in loaded],
        cosines=cosines_of_means([each.vectors for each in loaded]),
        control=cosines_of_means([each.control for each in loaded]),
    )
