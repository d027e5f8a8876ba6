"""The runs of a cold start.

Every run is an ordinary run record. Runs that differ only after stage 1 (in the newcomers' history, epochs or task)
start from the shared tensors of the run that did stage 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from configs.errors import InputError, TooFewUsers
from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.backbone.load import read_shape
from simulations.experiments.cold_start.rows import tabulate
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete
from simulations.experiments.plan import Planned, fewer_users, plan, users_digests
from simulations.experiments.reuse import find, started_from
from simulations.run.folders import check_experiment
from simulations.run.preflight import build_method, resolve
from strategies.method import Method, has_personal_part

Log = Callable[[str], None]
_OPTIONS = {
    "users.collective": "a cold start uses `collective` instead",
    "users.group": "a cold start uses `compositions` instead",
    "task": "a cold start uses `tasks` instead",
    "method": "a cold start uses `methods` instead",
    "seed": "a cold start uses `seeds` instead",
    "start_from": "a cold start counts the bytes of stage 1, which this setting skips",
    "evaluate.every": "a cold start evaluates newcomers only after stage 1",
}
"""Config keys that cannot be overridden, and why."""
_MANY = 2**31 - 1
"""Stands for a number of collective users not known yet, so that no cohort is too large; cohorts shrink later."""
_TASK = "{task}"
"""Stands for a task's name in `users.source`, for real users of several tasks."""


def run_all(
    spec: ColdStartSpec,
    toml: Path | str | None,
    overrides: Sequence[str],
    folder: Path | str,
    log: Log,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> tuple[pd.DataFrame, list[Run]]:
    """Run the missing runs of an experiment.

    Args:
        spec: The experiment.
        toml: An experiment file for all runs.
        overrides: `key=value` for all runs.
        folder: Folder for run records.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Returns:
        One row per run (`tabulate`), and the main runs: every task, method, number of collective users and seed.

    Raises:
        InputError: A setting is invalid, or there are too few users.
        RunFailed: A run failed.
    """
    folder = Path(folder)
    check_experiment(folder, "cold_start.json")
    _check_spec(spec, overrides)
    log(f"checking configs and users (up to {max(spec.collective):,} collective users)")
    planned, groups, follow_ups = _plan_all(spec, toml, [*overrides, f"users.collective={_MANY}"])
    log(
        f"{len(planned)} main runs, {len(groups)} with other groups of collective users, "
        f"{sum(map(len, follow_ups))} that start from a main run"
    )
    planned = [
        replace(planned_run, starts_others=_starts_others(planned_run, laters, folder))
        for planned_run, laters in zip(planned, follow_ups, strict=True)
    ]
    runs = complete(planned, folder, False, log, on_progress)
    starting = [
        started_from(later, run.folder) for run, laters in zip(runs, follow_ups, strict=True) for later in laters
    ]
    sources = [run.config.task for run, laters in zip(runs, follow_ups, strict=True) for _ in laters]
    rows = [tabulate(run, folder) for run in (*runs, *complete(groups, folder, False, log, on_progress))]
    started = complete(starting, folder, False, log, on_progress)
    rows += [tabulate(run, folder, task) for run, task in zip(started, sources, strict=True)]
    return pd.DataFrame(rows), runs


def _check_spec(spec: ColdStartSpec, overrides: Sequence[str]) -> None:
    spec.check()
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OPTIONS and (key != "task" or spec.tasks):
            raise InputError(f"{override}: {_OPTIONS[key]}")


def _plan_all(
    spec: ColdStartSpec, toml: Path | str | None, overrides: Sequence[str]
) -> tuple[list[Planned], list[Planned], list[list[Planned]]]:
    """Plan everything before anything runs, so that mistakes are found before work is spent.

    Returns:
        The main runs; those of other groups of collective users; for each main run, those that start from it.
    """
    tasks = spec.tasks or [load_config(toml, overrides).task]
    spec = replace(spec, tasks=tasks)
    bases = {task: _base(spec, toml, [*overrides, f"task={task}"]) for task in tasks}
    digest = users_digests()
    planned = [
        planned_run
        for task, count in product(tasks, sorted(spec.collective))
        for planned_run in _plan(spec, toml, overrides, bases[task], count, digest)
    ]
    if (spec.transfer or spec.compositions) and not any(map(_has_stage_1, planned)):
        field = "transfer" if spec.transfer else "compositions"
        raise InputError(f"none of {', '.join(spec.methods)} has a stage 1", field=field)
    if any(spec.history) and not any(map(_has_stage_2, planned)):
        raise InputError(f"none of {', '.join(spec.methods)} has a stage 2", field="history")
    groups = [
        planned_run
        for task, group in product(tasks, range(1, spec.compositions))
        for planned_run in _plan(spec, toml, overrides, bases[task], min(spec.collective), digest, group)
        if _has_stage_1(planned_run)
    ]
    return planned, groups, [_later(spec, planned_run, toml, overrides, digest) for planned_run in planned]


def _base(spec: ColdStartSpec, toml: Path | str | None, overrides: Sequence[str]) -> RunConfig:
    """Return what all runs of a task have; refuse what a cold start does not allow in an experiment or method file."""
    base = load_config(toml, overrides)
    for method in spec.methods:
        _check_config(method, load_config(toml, [*overrides, f"method={method}"]), base, spec)
    return base


def _check_config(method: str, config: RunConfig, base: RunConfig, spec: ColdStartSpec) -> None:
    if config.users.overlap or config.users.select == "listed":
        raise InputError(f"{method}: a cold start draws its own users, without users.overlap or users.select='listed'")
    if config.users.select == "apart" and config.users.source == "synthetic":
        raise InputError(f"{method}: users.select='apart' gives other synthetic newcomers for every number of users")
    if len(spec.tasks) > 1 and config.users.source != "synthetic" and _TASK not in config.users.source:
        raise InputError(
            f"users.source={config.users.source}: holds one task's data; for several tasks put {_TASK} in the path in "
            "place of the task's name"
        )
    if (items := config.users.target_history) is not None:
        raise InputError(f"{method}: users.target_history={items}: a cold start uses `history` instead")
    if config.cohort != base.cohort:
        raise InputError(f"{method}: cohort={config.cohort}, but cohort={base.cohort} for the others")


def _of_task(task: str, toml: Path | str | None, overrides: Sequence[str]) -> list[str]:
    """Return the overrides with a task and the source of its users."""
    overrides = [*overrides, f"task={task}"]
    source = load_config(toml, overrides).users.source
    return [*overrides, f"users.source={source.replace(_TASK, task)}"] if _TASK in source else overrides


def _built(planned: Planned) -> Method:
    return build_method(planned.config, read_shape(planned.config.backbone), planned.import_path)


def _has_stage_1(planned: Planned) -> bool:
    return _built(planned).first_round is not None


def _has_stage_2(planned: Planned) -> bool:
    return has_personal_part(_built(planned))


def _plan(
    spec: ColdStartSpec,
    toml: Path | str | None,
    overrides: Sequence[str],
    base: RunConfig,
    count: int,
    digest: Callable[[RunConfig], str],
    group: int = 0,
) -> list[Planned]:
    task = base.task
    overrides = [*_of_task(task, toml, overrides), *fewer_users(base, count)]
    try:
        planned = plan(spec.methods, toml, [*overrides, f"users.group={group}"], spec.seeds, digest)
    except TooFewUsers as error:
        if error.key != "users.collective":
            raise InputError(f"{task}: {error}") from None
        if group:
            message = f"{spec.compositions} disjoint groups of {count} users, {task}: {error}"
            raise InputError(message, field="compositions", value=spec.compositions) from None
        raise InputError(f"{task}: {error}", field="collective", value=count) from None
    except InputError as error:
        raise InputError(f"{task} with {count} collective users: {error}") from None
    suffix = f"-group{group}" if group else ""
    # Evaluated only after the last round, by the personalisation. A comparison's run is also evaluated midway, with the
    # same final result.
    return [
        replace(
            planned_run,
            name=f"{task}-{planned_run.method}-{count}{suffix}-seed{planned_run.config.seed}",
            config=planned_run.config.model_copy(
                update={"evaluate": planned_run.config.evaluate.model_copy(update={"every": planned_run.config.rounds})}
            ),
            needs_midway=False,
        )
        for planned_run in planned
    ]


def _later(
    spec: ColdStartSpec,
    planned: Planned,
    toml: Path | str | None,
    overrides: Sequence[str],
    digest: Callable[[RunConfig], str],
) -> list[Planned]:
    """The runs that start from this one's shared tensors; `start_from` is set later.

    `digest` returns the digest of a run's users.
    """
    config = planned.config
    personal_part, method = _has_stage_2(planned), _built(planned)
    changes: list[tuple[str, RunConfig]] = []
    for items in spec.history:
        # Without items, newcomers have what stage 1 sends them, which the main run measures; unless that needs items.
        if items or method.introduces:
            users = config.users.model_copy(update={"target_history": items})
            fewer = config.model_copy(update={"users": users})
            try:
                sha256 = digest(fewer)
            except InputError as error:
                message = f"{config.task}, seed {config.seed}: {error}"
                raise InputError(message, field="history", value=items) from None
            if sha256 == planned.data_sha256:
                raise InputError(
                    f"no newcomer has more items (seed {config.seed}); use `all`", field="history", value=items
                )
            if personal_part:
                changes.append((f"history{items}", fewer))
    for epochs in spec.epochs if personal_part and method.trains_newcomers else ():
        if epochs != config.personal.epochs:
            personal = config.personal.model_copy(update={"epochs": epochs})
            changes.append((f"epochs{epochs}", config.model_copy(update={"personal": personal})))
    if spec.transfer and _has_stage_1(planned) and config.users.collective == max(spec.collective):
        others = [task for task in spec.tasks if task != config.task]
        changes += [(f"to-{task}", _transferred(planned, task, toml, overrides)) for task in others]
    return [
        replace(planned, name=f"{planned.name}-{suffix}", config=other, data_sha256=digest(other))
        for suffix, other in changes
    ]


def _starts_others(planned: Planned, laters: Sequence[Planned], folder: Path) -> bool:
    """Tell whether this run is completed and a missing run would start from its shared tensors."""
    place = find(planned, folder)
    return place is not None and any(find(started_from(later, place), folder) is None for later in laters)


def _transferred(planned: Planned, task: str, toml: Path | str | None, overrides: Sequence[str]) -> RunConfig:
    """The config of another task that uses this run's shift.

    Settings that determine the tensors are those of the shift, and so is stage 2's rate, which depends on the ranks.
    """
    config = planned.config
    overrides = [*_of_task(task, toml, overrides), f"method={planned.asked}", f"seed={config.seed}"]
    overrides += [f"users.collective={config.users.collective}", f"cohort={config.cohort}"]
    other = resolve(load_config(toml, overrides))
    if other.backbone != config.backbone:
        both = f"{config.task} has backbone {config.backbone!r}, {task} {other.backbone!r}"
        raise InputError(f"a shift fits only the backbone it was trained on; {both}", field="transfer")
    keys = ("settings", "sites", "private_sites", "positions", "rank", "joint_private_init", "aggregation", "evaluate")
    same = {key: getattr(config, key) for key in keys}
    same["personal"] = other.personal.model_copy(update={"lr": config.personal.lr})
    return other.model_copy(update=same)
