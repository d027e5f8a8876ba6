"""What one client does with one message, in plain values and without Flower.

Nothing outlives a task but the backbone and the adapter, which every client of this process shares.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.load import read_resolved
from configs.schema import FitConfig, RunConfig
from configs.seeds import derive_seed
from fl_clients.activations import ActivationStore, activation_folder
from fl_clients.backbone import Backbone, load, resolve_precision
from fl_clients.batches import Encoder, Example
from fl_clients.fit import fit
from fl_clients.forward import Forward
from fl_clients.lamp.readers import Pair
from fl_clients.lamp.store import open_user
from fl_clients.lamp.tasks import Task, find_task
from fl_clients.partition import Partition
from fl_clients.predict import generate, score_labels, stop_tokens
from fl_clients.prefix import Prefix
from fl_clients.private_store import write_private
from strategies.method import Adapter, FitResult, Method, Tensors, load_method
from strategies.metrics import Statistics, classification_statistics, generation_statistics, rating_statistics

Numbers = dict[str, list[float]]


@dataclass
class Reply:
    """What a client answers."""

    shared: Tensors | None
    values: dict[str, Any]
    numbers: Numbers


def _session(run_dir: Path) -> "_Session":
    # Keyed by content: a notebook may run another config under the same name.
    return _open_session(run_dir, (run_dir / "config.toml").read_bytes())


@lru_cache(maxsize=1)
def _open_session(run_dir: Path, _config: bytes) -> "_Session":
    return _Session(run_dir)


class _Session:
    """The parts of this process that every client uses: loaded once, bound to one run."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self.config: RunConfig = read_resolved(run_dir / "config.toml")
        self.partition = Partition(self.config.partitions, run_dir / ".partitions")
        self.task: Task = find_task(self.config.task)
        gpu = self.config.partitions.gpus > 0
        self.backbone: Backbone = load(self.config.backbone, resolve_precision(self.config.precision, gpu), gpu)
        self.method: Method = load_method(self.config.method, self.config.method_values(), self.config.settings)
        self.adapter: Adapter = self.method.client_attach(self.backbone.model, self.backbone.shape)
        self.plain = Forward(self.backbone, None)
        self.forward = self._forward()
        self.encoder = Encoder(self.task, self.backbone.tokenizer)
        self.stop = stop_tokens(self.backbone.tokenizer)

    def _forward(self) -> Forward:
        # An adapter that does not say what it leaves alone may touch everything.
        frozen: int = getattr(self.adapter, "frozen_blocks", 0)
        suffix: int | None = getattr(self.adapter, "suffix", None)
        limit = self.config.activations_mb * 1_000_000
        folder = activation_folder() if limit and frozen else None
        if folder is None:
            return self.plain
        store = ActivationStore(folder, limit, partial(_note_once, self._run_dir))
        return Forward(self.backbone, Prefix(self.backbone, frozen, suffix, store))


def roll_call(data_dir: Path, partition: int) -> Reply:
    """Say who is there: the partition, and how many history items and queries it holds."""
    history, queries = open_user(data_dir, partition)
    return Reply(None, {"partition": partition, "history": len(history), "queries": len(queries)}, {})


def train(run_dir: Path, data_dir: Path, partition: int, shared: Tensors, round_number: int) -> Reply:
    """Stage 1: train on the user's history and answered questions; return what travels."""
    session = _session(run_dir)
    started = _start(session)
    history, queries = open_user(data_dir, partition)
    span = ((round_number - 1) / session.config.rounds, round_number / session.config.rounds)
    settings = session.config.local
    examples = _encode(session, history + queries, settings)
    local_fit = _bind_fit(session, examples, settings, ("train", round_number, partition), span)
    update, result = session.method.client_train(session.adapter, shared, local_fit)
    return Reply(update, {**_fit_values(result, examples), **_finish(session, started)}, {})


def personalize(run_dir: Path, data_dir: Path, partition: int, shared: Tensors) -> Reply:
    """Stage 2: evaluate the collective shift, train the private one, keep it, evaluate again.

    A user without history has nothing to personalise on and is served by the collective shift.
    """
    session = _session(run_dir)
    started = _start(session)
    history, queries = open_user(data_dir, partition)
    session.method.client_load(session.adapter, shared, None)
    numbers = _evaluate(session, run_dir, partition, queries, "collective")
    values: dict[str, Any] = {"status": "no_history", "examples": 0, "steps": 0}
    if history:
        settings = session.config.personal
        examples = _encode(session, history, settings)
        local_fit = _bind_fit(session, examples, settings, ("personalize", partition), (0.0, 1.0))
        private, result = session.method.client_personalize(session.adapter, shared, local_fit)
        write_private(run_dir / "private", partition, private)
        session.method.client_load(session.adapter, shared, private)
        values = _fit_values(result, examples)
    numbers |= _evaluate(session, run_dir, partition, queries, "personalised")
    values["questions_cut"] = _questions_cut(session, queries)
    return Reply(None, {**values, **_finish(session, started)}, numbers)


def evaluate(run_dir: Path, data_dir: Path, partition: int, shared: Tensors) -> Reply:
    """Evaluate the shared tensors on the user's queries; without tensors, the bare backbone."""
    session = _session(run_dir)
    started = _start(session)
    _, queries = open_user(data_dir, partition)
    stage = "collective" if shared else "base"
    if shared:
        session.method.client_load(session.adapter, shared, None)
    numbers = _evaluate(session, run_dir if not shared else None, partition, queries, stage)
    values = {"status": "ok", "examples": len(queries), "steps": 0, "questions_cut": _questions_cut(session, queries)}
    return Reply(None, {**values, **_finish(session, started)}, numbers)


def _note_once(run_dir: Path, text: str) -> None:
    """Tell the person who follows the run, in the name of every process that has the same to say."""
    marker = run_dir / ".partitions" / "activations-note"
    marker.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError), marker.open("x"), (run_dir / "events.jsonl").open("a") as events:
        events.write(json.dumps({"event": "note", "text": text}) + "\n")


def _start(session: _Session) -> float:
    session.partition.reset_peak()
    return time.perf_counter()


def _finish(session: _Session, started: float) -> dict[str, Any]:
    return {
        "wall_s": time.perf_counter() - started,
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


def _encode(session: _Session, pairs: Sequence[Pair], settings: FitConfig) -> list[Example]:
    if not pairs:
        raise ValueError("this user has no examples to train on")
    return session.encoder.examples(pairs, settings.max_tokens)


def _bind_fit(
    session: _Session,
    examples: Sequence[Example],
    settings: FitConfig,
    purpose: tuple[str | int, ...],
    span: tuple[float, float],
) -> Callable[[Iterable[nn.Parameter], Callable[[], None]], FitResult]:
    seed = derive_seed(session.config.seed, *purpose)
    # Methods with dropout draw from the global generator: seeded per task, it depends on no other client.
    torch.manual_seed(seed)
    return partial(fit, session.forward, session.adapter, examples, settings, seed, span)


def _evaluate(session: _Session, run_dir: Path | None, partition: int, queries: Sequence[Pair], stage: str) -> Numbers:
    """Predict the queries and return sufficient statistics, keys prefixed with the stage.

    With `run_dir`, the predictions themselves go to the client's own file in the run record.
    """
    if not queries:
        return {}
    predictions = _predict(session, partition, queries, stage)
    statistics = _judge(session.task, predictions, [query.target for query in queries])
    if run_dir is not None and session.config.evaluate.predictions:
        folder = run_dir / ".predictions"
        folder.mkdir(exist_ok=True)
        rows = [
            {
                "user": partition,
                "stage": stage,
                "query": query.item_id,
                "gold": query.target,
                "prediction": text,
            }
            for query, text in zip(queries, predictions, strict=True)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{partition}-{stage}.jsonl").write_text(text, encoding="utf-8")
    return {f"{stage}.{key}": values for key, values in statistics.items()}


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


def _questions(session: _Session, queries: Sequence[Pair]) -> list[tuple[list[int], bool]]:
    """The queries' prompts, with room for the longest answer as in training, and whether each was cut."""
    longest = max(map(len, session.encoder.labels), default=session.task.max_new_tokens)
    room = session.config.personal.max_tokens - longest
    return [session.encoder.prompt(query.source, room) for query in queries]


def _questions_cut(session: _Session, queries: Sequence[Pair]) -> int:
    return sum(cut for _, cut in _questions(session, queries))


def _predict(session: _Session, partition: int, queries: Sequence[Pair], stage: str) -> list[str]:
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
                seeds = [derive_seed(config.seed, "decode", stage, partition, queries[i].item_id) for i in chosen]
            answers = generate(session.plain, adapter, batch, task.max_new_tokens, session.stop, seeds)
        for i, answer in zip(chosen, answers, strict=True):
            texts[i] = answer
    return texts
