"""Splits a synthetic run's quality into questions on which a user and the crowd agree, and those on which they differ.

Where they differ, only personalisation can be right; where they agree, it can only do harm. The pooled quality mixes
the two.
"""

import json
from pathlib import Path

from fl_clients.evaluate import score
from fl_clients.lamp.select_users import differing_questions
from fl_clients.lamp.tasks import find_task
from fl_server.record.folder import RunFolder
from fl_server.record.schema import AgreementPart, read_run, write_run
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import metrics


def record_agreement(folder: Path) -> None:
    """Add the split to a completed run's record, if its users are synthetic and its predictions are there."""
    record, files = read_run(folder), RunFolder(folder)
    path = folder / "predictions.jsonl"
    if record.users.source != "synthetic" or not path.is_file():
        return
    config = files.config
    differing = differing_questions(config)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = {}
    for name, differ in (("agree", False), ("differ", True)):
        chosen = [line for line in lines if (line["query"] in differing) == differ]
        values = {}
        for point in EvaluationPoint:
            own = [line for line in chosen if line["stage"] == point]
            answers, golds = [line["prediction"] for line in own], [line["gold"] for line in own]
            values[str(point)] = metrics(score(find_task(config.task), answers, golds, config.evaluate.words))
        questions = sum(line["stage"] == EvaluationPoint.PERSONALISED for line in chosen)
        parts[name] = AgreementPart(questions=questions, metrics=values)
    record.agreement = parts
    write_run(folder, record)
