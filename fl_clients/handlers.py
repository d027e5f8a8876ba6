"""What one client does with one message, in plain values and without Flower.

Nothing outlives a task but the backbone and the adapter, which every client of this process shares, and what the client
itself has put into its private store.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import FitConfig
from configs.seeds import derive_seed
from fl_clients.batches import Example
from fl_clients.fit import LocalFit
from fl_clients.lamp.readers import Pair
from fl_clients.lamp.table import open_user
from fl_clients.private_store import read_kept, write_kept, write_private
from fl_clients.questions import answer_questions, judge_answers, questions_cut
from fl_clients.session import Session, open_session
from strategies.method import FitResult, Tensors, Visit
from strategies.metrics import Statistics


@dataclass
class Reply:
    """What a client answers."""

    shared: Tensors | None
    values: dict[str, Any]
    numbers: Statistics


def personalize_once(run_dir: Path, data_dir: Path, partition: int, shared: Tensors) -> Reply:
    """Stage 2, for good: asked again, by a run that was taken up again, the client answers what it answered then."""
    path = run_dir / ".personalised" / f"{int(partition)}.json"
    if path.is_file():
        return Reply(None, **json.loads(path.read_text(encoding="utf-8")))
    reply = personalize(run_dir, data_dir, partition, shared, True)
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps({"values": reply.values, "numbers": reply.numbers}), encoding="utf-8")
    scratch.replace(path)
    return reply


def roll_call(data_dir: Path, partition: int) -> Reply:
    """Say who is there: the partition, and how many history items and queries it holds."""
    user = open_user(data_dir, partition)
    return Reply(None, {"partition": partition, "history": len(user.history), "queries": len(user.queries)}, {})


def train(
    run_dir: Path, data_dir: Path, partition: int, shared: Tensors, round_number: int, last_turn: int = -1
) -> Reply:
    """Stage 1: train on the user's history and answered questions; return what travels.

    Args:
        run_dir: The run record.
        data_dir: The user table.
        partition: Who.
        shared: What the server sent.
        round_number: The round.
        last_turn: The round of the user's last turn that the server took, −1 if none.
    """
    session = open_session(run_dir)
    started = _start(session)
    user = open_user(data_dir, partition)
    config = session.config
    opening = round_number == 0
    settings = config.personal if opening else config.local
    span = (0.0, 1.0) if opening else ((round_number - 1) / config.rounds, round_number / config.rounds)
    examples = _encode(session, user.history + user.queries, settings)
    seed = derive_seed(config.seed, "train", round_number, user.user_id)
    local_fit = LocalFit(session.forward, session.adapter, examples, settings, seed, span)
    visit = Visit(round_number, shared, read_kept(run_dir / "private", partition, last_turn), local_fit)
    trained = session.method.client_train(session.adapter, visit)
    if trained.kept is not None:
        write_kept(run_dir / "private", partition, round_number, last_turn, trained.kept)
    return Reply(trained.shared, {**_fit_values(trained.fit, examples), **_finish(session, started)}, {})


def personalize(run_dir: Path, data_dir: Path, partition: int, shared: Tensors, keep: bool) -> Reply:
    """Stage 2: evaluate the collective shift, train the private one, evaluate again.

    A user without history has nothing to personalise on and is served by the collective shift, and so is everybody by a
    method without a personal part.

    Args:
        run_dir: The run record.
        data_dir: The user table.
        partition: Who.
        shared: What the server sent.
        keep: Keep the private tensors and the predictions; else this is a look on the way, which leaves nothing behind.
    """
    session = open_session(run_dir)
    started = _start(session)
    user = open_user(data_dir, partition)
    record = run_dir if keep else None
    session.method.client_load(session.adapter, shared, None)
    answers = answer_questions(session, user.user_id, user.queries, "collective")
    numbers = judge_answers(session, record, partition, user.queries, answers, "collective")
    values: dict[str, Any] = {"status": "ok" if user.history else "no_history", "examples": 0, "steps": 0}
    if user.history:
        settings = session.config.personal
        examples = _encode(session, user.history, settings)
        seed = derive_seed(session.config.seed, "personalize", user.user_id)
        local_fit = LocalFit(session.forward, session.adapter, examples, settings, seed)
        personal = session.method.client_personalize(session.adapter, shared, local_fit)
        if personal is not None:
            private, result = personal
            if keep:
                write_private(run_dir / "private", partition, private)
            session.method.client_load(session.adapter, shared, private)
            answers = answer_questions(session, user.user_id, user.queries, "personalised")
            values = _fit_values(result, examples)
    numbers |= judge_answers(session, record, partition, user.queries, answers, "personalised")
    values["questions_cut"] = questions_cut(session, user.queries)
    return Reply(None, {**values, **_finish(session, started)}, numbers)


def evaluate(run_dir: Path, data_dir: Path, partition: int, shared: Tensors, stage: str) -> Reply:
    """Evaluate the shared tensors (`stage` collective) or the bare backbone (base) on the user's queries."""
    session = open_session(run_dir)
    started = _start(session)
    user = open_user(data_dir, partition)
    base = stage == "base"
    if not base:
        session.method.client_load(session.adapter, shared, None)
    answers = answer_questions(session, user.user_id, user.queries, stage)
    numbers = judge_answers(session, run_dir if base else None, partition, user.queries, answers, stage)
    cut = questions_cut(session, user.queries)
    values = {"status": "ok", "examples": len(user.queries), "steps": 0, "questions_cut": cut}
    return Reply(None, {**values, **_finish(session, started)}, numbers)


def _start(session: Session) -> float:
    session.partition.reset_peak()
    return time.perf_counter()


def _finish(session: Session, started: float) -> dict[str, Any]:
    return {
        "wall_s": time.perf_counter() - started,
        "ended_at": time.time(),
        "partition_name": session.partition.name,
        "peak_memory_bytes": session.partition.peak_memory(),
    }


def _fit_values(result: FitResult, examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "status": "ok",
        "examples": result.examples,
        "examples_cut": sum(example.cut for example in examples),
        "steps": result.steps,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
    }


def _encode(session: Session, pairs: Sequence[Pair], settings: FitConfig) -> list[Example]:
    if not pairs:
        raise ValueError("this user has no examples to train on")
    return session.encoder.examples(pairs, settings.max_tokens)
