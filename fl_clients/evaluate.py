"""How a user's held-out questions are answered and judged, with the adapter as it is set."""

import json
from collections.abc import Sequence
from pathlib import Path

from configs.seeds import derive_seed
from fl_clients.lamp.readers import Pair
from fl_clients.lamp.tasks import Task
from fl_clients.predict import generate, score_labels
from fl_clients.session import Session
from strategies.metrics import Statistics, classification_statistics, generation_statistics, rating_statistics


def answer_questions(session: Session, user_id: str, queries: Sequence[Pair], stage: str) -> list[str]:
    """Answer a user's queries.

    Args:
        session: Its adapter is set.
        user_id: The user's own, for the seeds of sampled answers.
        queries: In any order.
        stage: `base` runs the bare backbone, all others the adapter.
    """
    config, task = session.config, session.task
    adapter = None if stage == "base" else session.adapter
    prompts = [prompt for prompt, _ in _questions(session, queries)]
    # Like lengths together: less padding. The order goes back at the end.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), config.evaluate.batch_size):
        chosen = order[start : start + config.evaluate.batch_size]
        batch = [prompts[i] for i in chosen]
        if task.labels and config.decoding == "deterministic":
            best = score_labels(session.forward, adapter, batch, session.encoder.labels).argmax(dim=1).tolist()
            answers = [task.labels[label] for label in best]
        else:
            seeds = None
            if config.decoding == "paper":
                seeds = [derive_seed(config.seed, "decode", stage, user_id, queries[i].item_id) for i in chosen]
            answers = generate(session.plain, adapter, batch, task.max_new_tokens, session.stop, seeds)
        for i, answer in zip(chosen, answers, strict=True):
            texts[i] = answer
    return texts


def judge_answers(
    session: Session, keep: Path | None, partition: int, queries: Sequence[Pair], answers: Sequence[str], stage: str
) -> Statistics:
    """Return sufficient statistics of answers, keys prefixed with the stage.

    Args:
        session: Names the task.
        keep: The run record, where the answers themselves go into the client's own file; None keeps none.
        partition: The user's.
        queries: With their golds.
        answers: One a query.
        stage: `base`, `collective` or `personalised`.
    """
    if not queries:
        return {}
    statistics = _judge(session.task, answers, [query.target for query in queries])
    if keep is not None and session.config.evaluate.predictions:
        folder = keep / ".predictions"
        folder.mkdir(exist_ok=True)
        rows = [
            {"user": partition, "stage": stage, "query": query.item_id, "gold": query.target, "prediction": text}
            for query, text in zip(queries, answers, strict=True)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{partition}-{stage}.jsonl").write_text(text, encoding="utf-8")
    return {f"{stage}.{key}": values for key, values in statistics.items()}


def questions_cut(session: Session, queries: Sequence[Pair]) -> int:
    """Count the queries that lose tokens to fit."""
    return sum(cut for _, cut in _questions(session, queries))


def _judge(task: Task, predictions: Sequence[str], golds: Sequence[str]) -> Statistics:
    if task.kind == "texts":
        return generation_statistics(predictions, golds)
    if task.kind == "ratings":
        return rating_statistics(predictions, golds)
    number = {label: index for index, label in enumerate(task.labels)}
    outside = len(task.labels)
    return classification_statistics(
        [number.get(text, outside) for text in predictions], [number[gold] for gold in golds], len(task.labels)
    )


def _questions(session: Session, queries: Sequence[Pair]) -> list[tuple[list[int], bool]]:
    """The queries' prompts, with room for the longest answer as in training, and whether each was cut."""
    longest = max(map(len, session.encoder.labels), default=session.task.max_new_tokens)
    room = session.config.personal.max_tokens - longest
    return [session.encoder.prompt(query.source, room) for query in queries]
