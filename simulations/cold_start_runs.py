"""`fedperfit cold-start`: how many collective users it takes until newcomers are served well, and at what cost.

Every run is an ordinary run record. What changes nothing in stage 1 (how much history newcomers bring, how long they
train, the task they have) starts from the shared tensors of the run that did stage 1.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd

from configs.errors import InputError
from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.lamp.store import build_table
from simulations.comparable import Run
from simulations.comparison import curve
from simulations.comparison_runs import Planned, complete, find, plan
from simulations.prepare import resolve
from strategies.metrics import LOWER_IS_BETTER

Say = Callable[[str], None]
_OPTIONS = {"users.collective": "--collective", "users.group": "--compositions", "task": "--tasks"}


@dataclass(frozen=True)
class Question:
    """What a cold-start experiment asks."""

    collective: list[int]
    """Numbers of collective users; nested, so the fewer are among the more."""
    methods: list[str]
    """The first is the one that others are tested against."""
    tasks: list[str]
    """Empty: the config's."""
    seeds: list[int]
    history: list[int]
    """Items that newcomers bring, beside all of them; 0 is the collective shift alone."""
    epochs: list[int]
    """Epochs that newcomers train, beside the config's."""
    compositions: int
    """Groups of the smallest number of collective users, at least two; 0: only the first."""
    transfer: bool
    """Train the collective shift on each task, personalise on each other."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Names the option.
        """
        options: dict[str, Sequence[object]] = {
            "--collective": self.collective,
            "--methods": self.methods,
            "--tasks": self.tasks,
            "--history": self.history,
            "--epochs": self.epochs,
        }
        for option, values in options.items():
            for value in values:
                if values.count(value) > 1:
                    raise InputError(f"{option}: {value} stands there twice")
                if isinstance(value, int) and value < (least := 0 if option == "--history" else 1):
                    raise InputError(f"{option} {value}: expected at least {least}")
        if self.compositions == 1:
            raise InputError("--compositions 1: expected at least 2 groups, or 0")
        for option in ("--collective", "--methods"):
            if not options[option]:
                raise InputError(f"{option}: expected at least one")
        if self.transfer and len(self.tasks) < 2:
            raise InputError("--transfer: expected at least two tasks in --tasks")


def cold_start(
    question: Question,
    toml: Path | None,
    overrides: Sequence[str],
    folder: Path,
    say: Say,
    watch: Callable[[Path], None] = lambda _folder: None,
) -> tuple[pd.DataFrame, list[Run]]:
    """Run what is missing of an experiment.

    Args:
        question: What is asked.
        toml: An experiment for all runs.
        overrides: `key=value` for all runs.
        folder: Where run records go.
        say: Told what is done.
        watch: As in `simulate`.

    Returns:
        One row per run (`tabulate`), and the runs of the first part: every task, method, number and seed.

    Raises:
        InputError: A setting is wrong, or there are too few users.
        RunFailed: A run failed.
    """
    question.check()
    base = load_config(toml, overrides)
    if base.users.overlap or base.users.select == "listed":
        raise InputError(
            "cold-start draws users by their numbers, newcomers apart: no users.overlap, no select='listed'"
        )
    if len(question.tasks) > 1 and base.users.source != "synthetic":
        raise InputError(f"users.source={base.users.source}: one task's data; --tasks needs users.source=synthetic")
    if (items := base.users.target_history) is not None:
        raise InputError(f"users.target_history={items}: cold-start takes it from --history")
    for word in overrides:
        key = word.partition("=")[0].strip()
        if key in _OPTIONS and (key != "task" or question.tasks):
            raise InputError(f"{word}: cold-start takes it from {_OPTIONS[key]}")
    tasks = question.tasks or [base.task]
    question = replace(question, tasks=tasks)
    planned = [
        each
        for task, count in product(tasks, sorted(question.collective))
        for each in _plan(question, toml, overrides, task, count, base)
    ]
    groups = [
        each
        for task, group in product(tasks, range(1, question.compositions))
        for each in _plan(question, toml, overrides, task, min(question.collective), base, group)
    ]
    # Planned before anything runs: what cannot be is said before work is spent.
    laters = [_later(question, each, toml, overrides) for each in planned]
    say(
        f"{len(planned)} runs for the numbers of collective users, {len(groups)} for their compositions, "
        f"{sum(map(len, laters))} that start from the first"
    )
    planned = [
        replace(each, starts_others=_starts_others(each, own, folder))
        for each, own in zip(planned, laters, strict=True)
    ]
    runs = complete(planned, folder, False, say, watch)
    starting = [_started(later, run.folder) for run, own in zip(runs, laters, strict=True) for later in own]
    sources = [run.config.task for run, own in zip(runs, laters, strict=True) for _ in own]
    rows = [tabulate(run, folder) for run in (*runs, *complete(groups, folder, False, say, watch))]
    started = complete(starting, folder, False, say, watch)
    rows += [tabulate(run, folder, task) for run, task in zip(started, sources, strict=True)]
    return pd.DataFrame(rows), runs


def _plan(
    question: Question,
    toml: Path | None,
    overrides: Sequence[str],
    task: str,
    count: int,
    base: RunConfig,
    group: int = 0,
) -> list[Planned]:
    words = [*overrides, f"task={task}", f"users.collective={count}", f"cohort={min(base.cohort, count)}"]
    # Looked at after the last round alone, by the personalisation.
    words += [f"users.group={group}", f"evaluate.every={base.rounds}"]
    try:
        planned = plan(question.methods, toml, words, question.seeds)
    except InputError as error:
        if not group:
            raise
        wanted = f"{question.compositions} disjoint groups of {count} users"
        raise InputError(f"--compositions {question.compositions}: {wanted}: {error}") from None
    suffix = f"-group{group}" if group else ""
    names = [f"{task}-{each.method}-{count}{suffix}-seed{each.config.seed}" for each in planned]
    # A comparison's run, which looked on the way, has the same end.
    return [replace(each, name=name, looks=False) for each, name in zip(planned, names, strict=True)]


def _later(question: Question, planned: Planned, toml: Path | None, overrides: Sequence[str]) -> list[Planned]:
    """The runs that start from this one's shared tensors, `start_from` still to be set."""
    config = planned.config
    changes: list[tuple[str, RunConfig]] = []
    for items in question.history:
        if items:
            users = config.users.model_copy(update={"target_history": items})
            changes.append((f"history{items}", config.model_copy(update={"users": users})))
    for epochs in question.epochs:
        if epochs != config.personal.epochs:
            personal = config.personal.model_copy(update={"epochs": epochs})
            changes.append((f"epochs{epochs}", config.model_copy(update={"personal": personal})))
    if question.transfer and config.users.collective == max(question.collective):
        others = [task for task in question.tasks if task != config.task]
        changes += [(f"to-{task}", _transferred(planned, task, toml, overrides)) for task in others]
    return [
        replace(planned, name=f"{planned.name}-{suffix}", config=other, data_sha256=build_table(other).sha256)
        for suffix, other in changes
    ]


def _started(later: Planned, place: Path) -> Planned:
    return replace(later, config=resolve(later.config.model_copy(update={"start_from": str(place)})))


def _starts_others(planned: Planned, laters: Sequence[Planned], folder: Path) -> bool:
    """Tell whether a completed run would still have to give its shared tensors to one that is missing."""
    there = find(planned, folder)
    return there is not None and any(find(_started(later, there), folder) is None for later in laters)


def _transferred(planned: Planned, task: str, toml: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The config of another task with this run's shift: its sites, positions and ranks are the shift's."""
    config = planned.config
    words = [*overrides, f"task={task}", f"method={planned.asked}", f"seed={config.seed}"]
    words += [f"users.collective={config.users.collective}", f"cohort={config.cohort}", "evaluate.stage=personalised"]
    other = resolve(load_config(toml, words))
    if other.backbone != config.backbone:
        both = f"{config.task} has backbone {config.backbone!r}, {task} {other.backbone!r}"
        raise InputError(f"--transfer: a shift fits the backbone it was trained on alone; {both}")
    same = {key: getattr(config, key) for key in ("settings", "sites", "positions", "rank", "evaluate")}
    return other.model_copy(update=same)


def tabulate(run: Run, folder: Path, trained_on: str | None = None) -> dict[str, object]:
    """Return one run as a row: what was asked, quality, who is served badly, bytes, time.

    Args:
        run: Completed; it may lie elsewhere.
        folder: The experiment's, from which the run's path is told.
        trained_on: The task of its shift, if that is another run's.
    """
    record, config = run.record, run.config
    metric = record.main_metric
    last = curve(run).iloc[-1]
    clients = pd.read_parquet(run.folder / "clients.parquet")
    personal = clients[clients.phase == "personalize"]
    ledger = pd.read_parquet(run.folder / "ledger.parquet")
    download = ledger[(ledger.phase == "personalize") & (ledger.direction == "down")].message_bytes.sum()
    worst = "p90" if metric in LOWER_IS_BETTER else "p10"
    return {
        "task": config.task,
        "trained_on": trained_on or config.task,
        "method": run.method,
        "collective": config.users.collective,
        "group": config.users.group,
        "history": config.users.target_history,
        "epochs": config.personal.epochs,
        "seed": record.seed,
        "metric": metric,
        "value": record.metrics[metric],
        "value_collective": record.metrics_collective[metric],
        "value_base": record.metrics_base[metric],
        "worst_decile": record.per_user[metric][worst],
        **_quartiles(run, metric),
        "shared_parameters": record.params.shared,
        "bytes_total": None if config.start_from else int(last.bytes_total),
        "newcomer_bytes": float(download / len(personal)),
        "newcomer_steps": float(personal.steps.mean()),
        "newcomer_turn_seconds": float(personal.wall_s.mean()),
        "folder": os.path.relpath(run.folder, folder),
    }


def _quartiles(run: Run, metric: str) -> dict[str, float | None]:
    """Mean quality of the target users in each quarter of their history lengths, q1 the shortest; None if all equal."""
    users = pd.read_parquet(run.folder / "users.parquet")
    clients = pd.read_parquet(run.folder / "clients.parquet")
    lengths = users.set_index("partition").history
    personal = clients[clients.phase == "personalize"]
    if lengths[personal.user].nunique() < 2:
        return {f"q{number}": None for number in range(1, 5)}
    found = zip(personal.user, personal.metrics, strict=True)
    values = {user: dict(metrics).get(f"personalised.{metric}") for user, metrics in found}
    # Ties go by partition, so that every quarter has its share.
    order = sorted((user for user in values if values[user] is not None), key=lambda user: (lengths[user], user))
    quarters: dict[str, float | None] = {}
    for number in range(4):
        chosen = order[len(order) * number // 4 : len(order) * (number + 1) // 4]
        quarters[f"q{number + 1}"] = sum(values[user] or 0.0 for user in chosen) / len(chosen) if chosen else None
    return quarters
