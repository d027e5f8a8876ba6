"""Answers and scores a user's held-out questions with the adapter's current parameters."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from configs.seeds import derive_seed
from fl_clients.lamp.tasks import Task
from fl_clients.lamp.user import Pair
from fl_clients.lamp.user_table import OpenedUser
from fl_clients.predict import generate, score_labels
from fl_clients.prompts import prompts_at
from fl_clients.session import Session
from strategies.client_tools import UserTexts
from strategies.method import Adapter
from strategies.metrics.points import Baseline, EvaluationPoint
from strategies.metrics.statistics import (
    Statistics,
    classification_statistics,
    generation_statistics,
    rating_statistics,
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def answer_questions(
    session: Session, user: OpenedUser, point: EvaluationPoint, client: UserTexts | None = None
) -> list[str]:
    """Answer a user's questions.

    Args:
        session: The process's session, with the adapter already loaded.
        user: The user, whose id seeds sampled answers.
        point: `base` runs the bare backbone; the other points use the adapter.
        client: For what the method puts before the questions at the point `personalised`; None: nothing.

    Returns:
        One answer per question, in the order of the questions.
    """
    prompts = [prompt for prompt, _ in prompts_at(session, user, point, client)]
    seeds = None
    if session.config.decoding == "paper":
        names = [(str(point), user.user_id, query.item_id) for query in user.queries]
        seeds = [derive_seed(session.config.seed, "decode", *name) for name in names]
    adapter = None if point == EvaluationPoint.BASE else session.adapter
    return (session.answer or answer_prompts)(session, adapter, prompts, seeds)


def answer_prompts(
    session: Session,
    adapter: Adapter | None,
    prompts: Sequence[list[int]],
    seeds: Sequence[int] | None,
    batch_of: Callable[[list[int]], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> list[str]:
    """Answer prompts of the session's task: the likeliest label, or a text.

    Args:
        session: The process's session.
        adapter: None answers with the bare backbone.
        prompts: In tokens.
        seeds: One per prompt, to sample an answer; None: deterministically.
        batch_of: Makes a context for a batch of prompts, given by their numbers.
    """
    config, task = session.config, session.task
    # Batches of similar prompt length need less padding; the answers are returned in the prompts' order.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), config.evaluate.batch_size):
        chosen = order[start : start + config.evaluate.batch_size]
        batch = [prompts[i] for i in chosen]
        with batch_of(chosen):
            if task.labels and seeds is None:
                best = score_labels(session.forward, adapter, batch, session.encoder.labels).argmax(dim=1).tolist()
                answers = [task.labels[label] for label in best]
            else:
                chosen_seeds = [seeds[i] for i in chosen] if seeds is not None else None
                answers = generate(session.plain, adapter, batch, task.max_new_tokens, session.stop, chosen_seeds)
        for i, answer in zip(chosen, answers, strict=True):
            texts[i] = answer
    return texts


def score_answers(
    session: Session,
    predictions_dir: Path | None,
    partition: int,
    user: OpenedUser,
    answers: Sequence[str],
    point: EvaluationPoint,
) -> Statistics:
    """Return the sufficient statistics of answers, with keys prefixed by the evaluation point.

    Args:
        session: Provides the task and the config.
        predictions_dir: Folder for the client's predictions file; None writes none.
        partition: The user's partition id.
        user: The user, with questions and golds.
        answers: One per question.
        point: The evaluation point of the answers.
    """
    queries = user.queries
    if not queries:
        return {}
    golds = [query.target for query in queries]
    statistics = score(session.task, answers, golds, session.config.evaluate.words)
    if predictions_dir is not None and session.config.evaluate.predictions:
        predictions_dir.mkdir(exist_ok=True)
        rows = [
            {
                "user": partition,
                "user_id": user.user_id,
                "stage": str(point),
                "query": query.item_id,
                "gold": query.target,
                "prediction": text,
            }
            for query, text in zip(queries, answers, strict=True)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (predictions_dir / f"{partition}-{point}.jsonl").write_text(text, encoding="utf-8")
    return {f"{point}.{key}": values for key, values in statistics.items()}


def score_baselines(session: Session, user: OpenedUser) -> Statistics:
    """Return the sufficient statistics of the task's trivial answers, with keys prefixed by the baseline's name."""
    golds = [query.target for query in user.queries]
    scores: Statistics = {}
    for baseline in session.task.baselines if golds else ():
        answers = [query.source for query in user.queries]
        if baseline == Baseline.FIRST_SENTENCE:
            answers = [_SENTENCE_END.split(text, maxsplit=1)[0] for text in answers]
        elif baseline == Baseline.USUAL:
            answers = [_usual_answer(session.task, user.history)] * len(golds)
        statistics = score(session.task, answers, golds, session.config.evaluate.words)
        scores |= {f"{baseline}.{key}": values for key, values in statistics.items()}
    return scores


def _usual_answer(task: Task, history: Sequence[Pair]) -> str:
    """Return the most frequent answer of a history, or the median rating; without a history the task's first label."""
    if task.kind == "ratings" and history:
        return sorted(pair.target for pair in history)[len(history) // 2]
    latest_first = [pair.target for pair in reversed(history)]
    return Counter(latest_first).most_common(1)[0][0] if history else task.labels[0]


def score(
    task: Task, predictions: Sequence[str], golds: Sequence[str], words: Literal["latin", "unicode"]
) -> Statistics:
    """Return the sufficient statistics of a task's answers.

    Args:
        task: Decides the metrics.
        predictions: One answer per gold.
        golds: Labels, ratings or texts.
        words: What ROUGE counts (`evaluate.words`).
    """
    if task.kind == "texts":
        return generation_statistics(predictions, golds, words)
    if task.kind == "ratings":
        return rating_statistics(predictions, golds)
    number = {label: index for index, label in enumerate(task.labels)}
    outside = len(task.labels)
    return classification_statistics(
        [number.get(text, outside) for text in predictions], [number[gold] for gold in golds], len(task.labels)
    )
