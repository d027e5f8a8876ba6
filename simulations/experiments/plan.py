"""The runs of an experiment, checked before any work."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import InputError
from configs.load import import_folders, load_config
from configs.schema import RunConfig
from fl_clients.backbone.load import read_shape
from fl_clients.lamp.select_users import build_table
from simulations.experiments.comparable import difference_in_evaluation
from simulations.run.folders import check_name
from simulations.run.preflight import build_method, method_digest, resolve
from strategies.method import has_personal_part


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    method: str
    """The name of its table row."""
    asked: str
    """The config's `method` as given."""
    name: str
    config: RunConfig
    data_sha256: str
    """The digest of its users."""
    import_path: list[str]
    """Folders the method may be imported from, as in `simulate`."""
    code: dict[str, str]
    """From `simulations.run.preflight.method_digest`."""
    needs_midway: bool = True
    """Whether midway evaluations are needed; if not, any run with the same final result can be reused."""
    starts_others: bool = False
    """Whether other runs start from its shared tensors, which a record may not have kept."""


def plan(
    methods: Sequence[str],
    toml: Path | str | None,
    overrides: Sequence[str],
    seeds: Sequence[int],
    digest: Callable[[RunConfig], str] | None = None,
) -> list[Planned]:
    """Build every config of a comparison, and check it and its users, before any work.

    The target users are evaluated personalised during stage 1, with the config's `evaluate.every`, else `halving`.

    Args:
        methods: As in the config's `method`.
        toml: An experiment file for all of them.
        overrides: `key=value` for all of them.
        seeds: Every method runs with each of them.
        digest: From `users_digests`, if several comparisons have the same users.

    Raises:
        InputError: A method, key or seed is invalid or given twice, or the methods would not be evaluated alike.
    """
    _check_arguments(methods, seeds, overrides)
    planned = []
    digest = digest or users_digests()
    labels: dict[str, str] = {}
    for method in methods:
        words = ["evaluate.point=personalised", *overrides, f"method={method}"]
        label = Path(method).stem if method.endswith(".toml") else method.rpartition(":")[2]
        if (other := labels.setdefault(label, method)) != method:
            raise InputError(f"{other} and {method} would both be called {label}; rename one of the files")
        import_path = import_folders(toml, words)
        for seed in seeds:
            config = resolve(_with_midway(load_config(toml, [*words, f"seed={seed}"])))
            check_name(label, "method")
            _check_config(config)
            digests = _check_method(method, config, import_path)
            name = f"{label}-seed{seed}"
            planned.append(Planned(label, method, name, config, digest(config), import_path, digests))
    _check_alike(planned)
    return planned


def fewer_users(config: RunConfig, count: int) -> list[str]:
    """Return overrides for fewer collective users, with a cohort and `faults.min_replies` that they allow.

    Raises:
        InputError: None of them would train.
    """
    cohort = min(config.cohort, count - config.users.held_out)
    if cohort < 1:
        raise InputError(f"users.held_out={config.users.held_out} leaves none of {count} collective users to train")
    overrides = [f"users.collective={count}", f"cohort={cohort}"]
    least = config.faults.min_replies
    return overrides if least is None or least <= cohort else [*overrides, f"faults.min_replies={cohort}"]


def plan_exchanged(planned: Sequence[Planned]) -> list[tuple[str, Planned]]:
    """Plan the control runs: stage 2 on another target user's history, from the shared tensors of a planned run.

    Returns:
        For each planned run whose method has a stage 2: its name, and the control, whose `start_from` is set later.

    Raises:
        InputError: There are fewer than two target users, or no method has a stage 2.
    """
    digest = users_digests()
    controls = []
    for origin in planned:
        shape = read_shape(origin.config.backbone)
        if not has_personal_part(build_method(origin.config, shape, origin.import_path)):
            continue
        if origin.config.users.target < 2:
            raise InputError("the control with exchanged histories needs at least two target users")
        users = origin.config.users.model_copy(update={"exchange_histories": True})
        evaluate = origin.config.evaluate.model_copy(update={"every": origin.config.rounds})
        config = origin.config.model_copy(update={"users": users, "evaluate": evaluate})
        name = f"{origin.name}-exchanged"
        control = replace(origin, name=name, config=config, data_sha256=digest(config), needs_midway=False)
        controls.append((origin.name, control))
    if not controls:
        raise InputError("none of the methods has a stage 2 to control")
    return controls


def _check_arguments(methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> None:
    for kind, given in (("method", methods), ("seed", seeds)):
        for value in given:
            if list(given).count(value) > 1:
                if kind == "seed":
                    raise InputError(f"{value} is given twice", field="seeds")
                raise InputError(f"method {value} is given twice")
        if not given:
            raise InputError(f"expected at least one {kind}")
    for override in overrides:
        key, _, value = (part.strip() for part in override.partition("="))
        if key in ("method", "seed"):
            raise InputError(f"{override}: a comparison takes its {key}s as arguments, not as overrides")
        if key == "evaluate.every" and value == "0":
            raise InputError(
                f"{override}: a comparison evaluates at least once; evaluate.every=ROUNDS evaluates at the end only"
            )


def _check_config(config: RunConfig) -> None:
    if config.evaluate.point != "personalised":
        raise InputError("evaluate.point=collective: a comparison reports the quality after personalisation")
    if config.start_from:
        raise InputError(
            f"start_from={config.start_from}: a comparison counts the bytes of stage 1, which this setting skips"
        )


def _check_alike(planned: Sequence[Planned]) -> None:
    """Refuse methods that would not be evaluated alike on the same users."""
    users: dict[int, str] = {}
    for planned_run in planned:
        difference = difference_in_evaluation(planned[0].config, planned_run.config)
        ours, theirs = users.setdefault(planned_run.config.seed, planned_run.data_sha256), planned_run.data_sha256
        if ours != theirs:
            difference = difference or ("users (data_sha256)", ours[:12], theirs[:12])
        if difference:
            key, one, other = difference
            pair = f"{planned[0].method} and {planned_run.method}"
            raise InputError(f"{pair} cannot be compared: {key} is {one!r} in one and {other!r} in the other")


def users_digests() -> Callable[[RunConfig], str]:
    """Return a function that computes the digest of a run's users and caches it."""
    known: dict[str, str] = {}

    def digest(config: RunConfig) -> str:
        key = json.dumps([config.users.model_dump(), config.task, config.seed])
        if key not in known:
            known[key] = build_table(config).sha256
        return known[key]

    return digest


def _with_midway(config: RunConfig) -> RunConfig:
    if config.evaluate.every:
        return config
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"every": "halving"})})


def _check_method(method: str, config: RunConfig, import_path: Sequence[str]) -> dict[str, str]:
    try:
        return method_digest(build_method(config, read_shape(config.backbone), import_path))
    except InputError as error:
        raise InputError(f"{method}: {error}") from None
