"""Which run records can be compared: alike in everything but the method, with one config per method."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.load import flatten
from configs.schema import RunConfig
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord
from strategies.loading import parameters_of

_ALIKE = (
    "task",
    "backbone",
    "precision",
    "decoding",
    "cohort",
    "users.collective",
    "users.target",
    "users.held_out",
    "personal.max_tokens",
    "evaluate.words",
    "devices",
    "robust",
)
"""Config keys in which compared runs must not differ; rounds may, since quality is read at equal bytes."""
_OWN = (
    "method",
    "settings",
    "wire",
    "server",
    "sites",
    "private_sites",
    "positions",
    "rank",
    "local.lr",
    "personal.lr",
)
"""Config keys, or tables of keys, that define a method."""
_NO_NUMBER = (
    *("engine", "activations_mb", "partitions.cpus", "ray.address", "faults.retries", "faults.client_seconds"),
    "evaluate.predictions",
)
"""Config keys that do not affect results."""


@dataclass(frozen=True)
class Run:
    """One run record in a comparison."""

    method: str
    """The name of its table row."""
    folder: Path
    config: RunConfig
    record: RunRecord

    @property
    def files(self) -> RunFolder:
        """The record's tables."""
        return RunFolder(self.folder)

    @classmethod
    def read(cls, folder: Path, method: str | None = None) -> "Run":
        """Read a record; `method` names its table row, by default with the record's method.

        Raises:
            InputError: There is no record, or its run did not complete.
        """
        files = RunFolder(folder)
        record = files.record
        if record.status != "completed":
            raise InputError(f"{folder}: this run's status is {record.status}; only completed runs can be compared")
        files.check_tables()
        return cls(method or record.method, folder, files.config, record)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs not evaluated alike on the same users, and runs of one method that differ in more than the seed.

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
                f"{run.folder}: its stage 1 comes from another run ({run.config.start_from}), so its bytes lack stage 1"
            )
    seen: dict[tuple[str, int], Run] = {}
    by_method: dict[str, Run] = {}
    by_seed: dict[int, Run] = {}
    for run in runs:
        seed = run.record.seed
        if (run.method, seed) in seen:
            twice = seen[run.method, seed].folder
            raise InputError(f"{twice} and {run.folder}: both are {run.method} with seed {seed}")
        seen[run.method, seed] = run
        same = by_method.setdefault(run.method, run)
        if other := first_difference(same.config, run.config, ("seed", *without_effect(run.config))):
            raise InputError(
                f"{same.folder} and {run.folder} are both {run.method}, but differ in more than the seed: {other}"
            )
        same_seed = by_seed.setdefault(seed, run)
        ours, theirs = (side.record.users.data_sha256[:12] for side in (same_seed, run))
        _refuse_difference(same_seed, run, "users (data_sha256)", ours, theirs)
    seeds = {method: sorted(run.record.seed for run in runs if run.method == method) for method, _ in seen}
    for method, method_seeds in seeds.items():
        if method_seeds != seeds[first.method]:
            raise InputError(
                f"{first.method} has seeds {seeds[first.method]}, {method} has {method_seeds}; use the same for both"
            )


def difference_in_evaluation(ours: RunConfig, theirs: RunConfig) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, in which two configs would be evaluated differently, or None."""
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


def other_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return settings, such as rounds, in which methods differ beyond their definition: by config key, then method."""
    flat = {run.method: numbers(run.config) for run in runs}
    differing = {}
    for key in sorted(set().union(*flat.values())):
        defining = any(f"{key}.".startswith(f"{prefix}.") for prefix in _OWN)
        expected = defining or key == "seed" or key.startswith("users.")
        values = {method: config.get(key) for method, config in flat.items()}
        if not expected and len({repr(value) for value in values.values()}) > 1:
            differing[key] = values
    return differing


def _refuse_difference(first: Run, run: Run, key: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise InputError(
            f"{first.folder} and {run.folder} cannot be compared: {key} is {ours!r} in one and {theirs!r} in the other"
        )


def numbers(config: RunConfig) -> dict[str, Any]:
    """Return a config's values that affect results, by dotted key."""
    flat = {key: value for key, value in flatten(config).items() if key not in _NO_NUMBER}
    # Clients in one pass are padded together, which rounds otherwise.
    return flat | {"clients_per_pass": config.clients_per_pass if config.engine == "vectorized" else 1}


def without_effect(config: RunConfig) -> list[str]:
    """Return the config keys whose values change nothing: where users' files lie, and what only other methods take.

    Of methods that are not fedperfit's own all keys count, since finding out would run a record's code.
    """
    shipped = config.method.startswith("strategies.")
    taken = {*parameters_of(config.method), "rounds", "seed"} if shipped else config.method_values().keys()
    return ["users.source", *(key.replace("rank_", "rank.") for key in config.method_values() if key not in taken)]


def first_difference(ours: RunConfig, theirs: RunConfig, ignored: Collection[str] = ()) -> str | None:
    """Describe the first difference between two configs, among the keys that affect results and are not `ignored`."""
    flat = [numbers(config) for config in (ours, theirs)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        if key in ignored or flat[0].get(key) == flat[1].get(key):
            continue
        return f"{key}: {flat[0].get(key)!r} vs. {flat[1].get(key)!r}"
    return None
