"""What only synthetic users can tell of a run: where personalisation can show at all, and how far it could go.

Where a user and the crowd differ, only personalisation can be right; where they agree, it can only do harm. The pooled
quality mixes the two.
"""

import json
from pathlib import Path

from configs.schema import RunConfig
from fl_clients.evaluate import score
from fl_clients.lamp.select_users import differing_questions, table_folder
from fl_clients.lamp.synthetic.ideal_learner import ideal_answers
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from fl_server.record.folder import RunFolder
from fl_server.record.schema import AgreementPart, read_run, write_run
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import metrics


def record_oracles(folder: Path) -> None:
    """Add both to a completed run's record if its users are synthetic: the split by agreement, the ideal learner."""
    record, config = read_run(folder), RunFolder(folder).config
    if record.users.source != "synthetic":
        return
    if (folder / "predictions.jsonl").is_file():
        record.agreement = _by_agreement(folder, config)
    users = table_folder(record.users.data_sha256)
    if record.oracle and users.is_dir() and not (config.users.exchange_histories or config.users.canaries):
        record.oracle.learner = _ideal_score(users, config)
    write_run(folder, record)


def _ideal_score(users: Path, config: RunConfig) -> float | None:
    """Score an ideal learner of the target users' histories in the task's first metric."""
    answers, golds = [], []
    for partition in range(config.users.collective, config.users.collective + config.users.target):
        user = open_user(users, partition)
        ideal = ideal_answers(config, user)
        if ideal is None:
            return None
        answers += ideal
        golds += [query.target for query in user.queries]
    values = metrics(score(find_task(config.task), answers, golds, config.evaluate.words))
    return next(iter(values.values()))


def _by_agreement(folder: Path, config: RunConfig) -> dict[str, AgreementPart]:
    path = folder / "predictions.jsonl"
    differing = differing_questions(config)
    # Not splitlines, since answers may contain other line separators.
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    parts = {}
    for name, differ in (("agree", False), ("differ", True)):
        chosen = [line for line in lines if (line["query"] in differing) == differ]
        values = {}
        for point in EvaluationPoint:
            answered = [line for line in chosen if line["stage"] == point]
            answers, golds = [line["prediction"] for line in answered], [line["gold"] for line in answered]
            values[str(point)] = metrics(score(find_task(config.task), answers, golds, config.evaluate.words))
        questions = sum(line["stage"] == EvaluationPoint.PERSONALISED for line in chosen)
        parts[name] = AgreementPart(questions=questions, metrics=values)
    return parts
