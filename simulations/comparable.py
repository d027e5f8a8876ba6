"""Which run records may stand beside each other: alike in all but their methods, and each method with one config."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.load import flatten, read_resolved
from configs.schema import RunConfig
from fl_server.records import RunRecord, read_run

_ALIKE = (
    "task",
    "backbone",
    "precision",
    "decoding",
    "cohort",
    "users.collective",
    "users.target",
    "personal.max_tokens",
    "devices",
    "robust",
)
"""Config keys in which compared runs must not differ; rounds may, since curves are read at bytes."""
NO_NUMBER = ("engine", "activations_mb", "partitions.cpus", "ray.address", "faults.retries", "faults.client_seconds")
"""Config keys that change no number."""


@dataclass(frozen=True)
class Run:
    """One run record in a comparison."""

    method: str
    """Its row's name."""
    folder: Path
    config: RunConfig
    record: RunRecord

    @classmethod
    def read(cls, folder: Path, method: str | None = None) -> "Run":
        """Read a record; its row is called as its method is unless said otherwise.

        Raises:
            InputError: No record, or of a run that did not complete.
        """
        record = read_run(folder)
        if record.status != "completed":
            raise InputError(f"{folder}: this run's status is {record.status}; only completed runs are compared")
        return cls(method or record.method, folder, read_resolved(folder / "config.toml"), record)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in more than their methods, and a method's runs that differ in more than their seeds.

    Raises:
        InputError: Names the first difference, and the two records.
    """
    first = runs[0]
    for run in runs[1:]:
        if difference := difference_in_evaluation(first.config, run.config):
            _refuse_difference(first, run, *difference)
    for run in runs:
        if run.config.start_from:
            raise InputError(
                f"{run.folder}: its stage 1 is another run's ({run.config.start_from}), and so are the bytes of that"
            )
    seen: dict[tuple[str, int], Run] = {}
    by_method: dict[str, Run] = {}
    by_seed: dict[int, Run] = {}
    for run in runs:
        seed = run.record.seed
        if (run.method, seed) in seen:
            other = seen[run.method, seed].folder
            raise InputError(f"{other} and {run.folder}: both are {run.method} with seed {seed}")
        seen[run.method, seed] = run
        same = by_method.setdefault(run.method, run)
        if unlike := first_difference(same.config, run.config, ("seed",)):
            raise InputError(f"{same.folder} and {run.folder} are not seeds of one {run.method}: {unlike}")
        twin = by_seed.setdefault(seed, run)
        ours, theirs = (each.record.users.data_sha256[:12] for each in (twin, run))
        _refuse_difference(twin, run, "users (data_sha256)", ours, theirs)
    seeds = {method: sorted(run.record.seed for run in runs if run.method == method) for method, _ in seen}
    for run in runs:
        _refuse_difference(first, run, "seeds", seeds[first.method], seeds[run.method])


def difference_in_evaluation(ours: RunConfig, theirs: RunConfig) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, in which two configs would not be evaluated alike; None if in none."""
    for key in _ALIKE:
        values = []
        for config in (ours, theirs):
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            values.append(value)
        if values[0] != values[1]:
            return key, values[0], values[1]
    return None


def _refuse_difference(first: Run, run: Run, key: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise InputError(
            f"{first.folder} and {run.folder} cannot be compared: {key} is {ours!r} in one and {theirs!r} in the other"
        )


def first_difference(ours: RunConfig, theirs: RunConfig, besides: Collection[str] = ()) -> str | None:
    """Name the first key in which two configs differ, of those that change a number, `besides` left out."""
    flat = [flatten(config) for config in (ours, theirs)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        if key in (*NO_NUMBER, *besides) or flat[0].get(key) == flat[1].get(key):
            continue
        return f"{key} is {flat[0].get(key)!r} there, {flat[1].get(key)!r} here"
    return None
