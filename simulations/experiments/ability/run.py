"""`fedperfit ability`: asks the models that a completed run serves what the backbone knew before."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from jinja2 import TemplateError

from configs.errors import InputError
from configs.files import write_atomic
from configs.seeds import derive_seed
from fl_clients.private_store import private_path
from fl_server.record.folder import RunFolder
from simulations.experiments.ability.questions import KNOWLEDGE, PASSAGES, knowledge
from simulations.experiments.ability.schema import Ability, Difference, TaskAbility
from simulations.run.folders import check_experiment, claim_folder
from simulations.run.served import load_served_model
from strategies.metrics.points import EvaluationPoint

TEXTS = "texts"
"""Name of the built-in texts among the tasks."""
_RESAMPLES = 10_000

Scores = dict[str, tuple[str, np.ndarray]]
"""Metric and values of the items, by task."""


def ability(
    run: Path,
    name: str = "",
    results: Path | str = "results",
    users: int = 3,
    tasks: Sequence[str] = (),
    include: Path | None = None,
    limit: int | None = None,
    log: Callable[[str], None] = print,
) -> Ability:
    """Ask the bare backbone, the collective part and users' models the same items, and write `ability.json`.

    Args:
        run: The run record.
        name: The result's folder under `results`; by default `ability-` and the run's name.
        results: The folder of results.
        users: How many target users' models are asked, the first ones with private tensors.
        tasks: Names of lm-eval's tasks, or of those in `include`; empty: the built-in questions and texts.
        include: A folder with tasks of one's own in lm-eval's format, whose data files lie on this machine.
        limit: Most items of each task; None: all.
        log: Called with progress messages.

    Raises:
        InputError: The run did not complete, lm-eval is not installed, or it does not know a task.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError("general ability is measured with lm-eval: pip install 'fedperfit[ability]'") from None
    if include is not None and not include.is_dir():
        raise InputError("not a folder", field="include", value=include)
    folder, files = claim_folder(results, name or f"ability-{run.name}"), RunFolder(run)
    check_experiment(folder, "ability.json")
    if files.record.status != "completed":
        raise InputError(f"{run}: this run did not complete ({files.status})")
    asked = _users(files, users)
    own = [task for task in tasks if task not in (KNOWLEDGE, TEXTS)]
    # lm-eval's tasks are thousands of files, which take longer to list than the built-in questions to answer.
    manager = TaskManager(include_path=str(include) if include else None, include_defaults=bool(own))
    ask = _Asking(run, tasks or (KNOWLEDGE, TEXTS), manager, limit)
    log("the bare backbone")
    base = ask(None, EvaluationPoint.BASE)
    log("the collective part")
    collective = ask(None, EvaluationPoint.COLLECTIVE)
    personal = []
    for user in asked:
        log(f"the model of user {user}")
        personal.append(ask(user, EvaluationPoint.PERSONALISED))
    report = Ability(
        name=folder.name,
        run=os.path.relpath(run, folder.parent),
        method=files.record.method,
        users=asked,
        tasks=[_compare(task, base, collective, personal, files.config.seed) for task in base],
    )
    folder.mkdir(parents=True, exist_ok=True)
    real = files.record.users.source != "synthetic"
    write_atomic(folder / "ability.json", report.to_json(), private=real)  # it names users
    return report


class _Asking:
    """The tasks of one command."""

    def __init__(self, run: Path, tasks: Sequence[str], manager: Any, limit: int | None) -> None:
        self._collective, self._limit = load_served_model(run, None), limit
        self._texts = TEXTS in tasks
        self._tasks = _load([task for task in tasks if task != TEXTS], manager)

    def __call__(self, user: str | None, point: EvaluationPoint) -> Scores:
        """Return what a model scores."""
        from simulations.experiments.ability.language_model import ServedLanguageModel, score_tasks

        served = self._collective if user is None else self._collective.of_user(user)
        model = ServedLanguageModel(served, point)
        scores: Scores = {}
        if self._tasks["tasks"]:
            answered = score_tasks(model, self._tasks, self._limit)
            scores = {task: (metric, np.array(values)) for task, (metric, values) in answered.items()}
        if self._texts:
            scores[TEXTS] = ("bits/byte", np.array(model.bits_per_byte(PASSAGES[: self._limit])))
        return scores


def _load(names: Sequence[str], manager: Any) -> dict[str, Any]:
    """Load lm-eval's tasks without a network.

    Raises:
        InputError: A task is unknown, its data are not here, or its score is not a mean over items.
    """
    from simulations.experiments.ability.language_model import mean_metric

    if unknown := [name for name in names if name != KNOWLEDGE and not manager.match_tasks([name])]:
        raise InputError("neither lm-eval nor --include has this task", field="tasks", value=unknown[0])
    try:
        with _offline():
            loaded: dict[str, Any] = manager.load([_knowledge_task() if name == KNOWLEDGE else name for name in names])
    except (OSError, ValueError) as error:
        raise InputError(f"its data are not on this machine: {error}", field="tasks", value=",".join(names)) from None
    except (TemplateError, StopIteration) as error:
        raise InputError(
            f"its data do not fit it: {str(error) or 'they have no item'}", field="tasks", value=",".join(names)
        ) from None
    for name, task in loaded["tasks"].items():
        if mean_metric(task) is None:
            metrics = ", ".join(task.aggregation())
            raise InputError(f"its score ({metrics}) is not a mean over items", field="tasks", value=name)
    return loaded


@contextmanager
def _offline() -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _knowledge_task() -> dict[str, Any]:
    return {
        "task": KNOWLEDGE,
        "custom_dataset": lambda **_: datasets.DatasetDict(test=datasets.Dataset.from_list(knowledge())),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _users(files: RunFolder, count: int) -> list[str]:
    """Return the first target users whose private tensors are here."""
    first = files.record.users.collective
    return [
        row["user_id"]
        for row in files.users(["user_id", "partition"]).to_pylist()
        if row["partition"] >= first and private_path(files.path / "private", row["partition"]).is_file()
    ][:count]


def _compare(task: str, base: Scores, collective: Scores, personal: list[Scores], seed: int) -> TaskAbility:
    metric, bare = base[task]
    draws = np.random.default_rng(derive_seed(seed, "ability", task)).integers(len(bare), size=(_RESAMPLES, len(bare)))

    def difference(values: np.ndarray) -> Difference:
        changes = values - bare
        low, high = np.quantile(changes[draws].mean(axis=1), [0.025, 0.975])
        return Difference(mean=float(changes.mean()), interval=(float(low), float(high)))

    theirs = difference(np.mean([scores[task][1] for scores in personal], axis=0)) if personal else None
    return TaskAbility(
        task=task,
        metric=metric,
        items=len(bare),
        base=float(bare.mean()),
        collective=difference(collective[task][1]),
        personalised=theirs,
    )
