"""What one client's visit does to the shared tensors: the loss on its own further items, and on other users' items.

`python -m benchmarks.visit RECORD` takes the shared tensors of a completed run and lets target users, who were not in
stage 1, train on them as collective users would in the middle of the schedule. Losses are in nats per answer token.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from configs.errors import InputError
from configs.training import FitConfig
from fl_clients.backbone.batches import Encoder, Example
from fl_clients.backbone.forward import Forward
from fl_clients.fit import LocalFit, answer_loss
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from fl_server.record.folder import RunFolder
from simulations.run.rebuild_users import rebuild_users
from simulations.run.served import ServedModel, load_served_model
from strategies.method import Tensors, TrainRequest

VISITS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "a third of the rate": {"lr": 1 / 3},
    "warm-up in the visit": {"visit_warmup": 0.5},
    "second moments kept": {"keep_moments": True},
    "FedProx, µ = 1": {"proximal": 1.0},
    "SGD, rate 0.1, momentum 0.9": {"optimizer": "sgd", "lr": 0.1},
}
"""Changes of the run's `local.*`; a rate below 1 is a multiple of the configured one for AdamW."""
ITEMS = 12
"""Items of a visitor's history on which it trains."""
MIDDLE = (5 / 12, 6 / 12)
"""The part of the schedule: round 6 of 12."""


def settings_of(base: FitConfig, changes: dict[str, Any]) -> FitConfig:
    """Return the run's settings with one visit's changes."""
    scaled = {"lr": base.lr * changes["lr"]} if "lr" in changes and "optimizer" not in changes else {}
    return base.model_copy(update=changes | scaled)


def loss_on(forward: Forward, served: ServedModel, shared: Tensors, examples: Sequence[Example]) -> float:
    """Return the mean loss of the shared tensors on examples."""
    served.method.client_load(served.adapter, shared, None)
    with torch.no_grad():
        parts = [examples[start : start + 8] for start in range(0, len(examples), 8)]
        return mean(float(answer_loss(forward, served.adapter, part)) for part in parts)


def visit(
    forward: Forward, served: ServedModel, settings: FitConfig, examples: Sequence[Example], seed: int
) -> Tensors:
    """Train once on a visitor's items; with kept moments, after a first visit whose result is forgotten."""
    moments: Tensors = {}
    for turn in range(1 + settings.keep_moments):
        fit = LocalFit(forward, served.adapter, examples, settings, seed + turn, MIDDLE, moments)
        result = served.method.client_train(served.adapter, TrainRequest(6, served.shared, {}, fit))
        moments = fit.moments
    return result.shared


def measure(record: Path, visitors: int) -> dict[str, dict[str, float]]:
    """Return the mean losses over visitors, by visit."""
    served = load_served_model(record, None)
    config, data = served.config, rebuild_users(RunFolder(record)).folder
    encoder = Encoder(find_task(config.task), served.backbone.tokenizer)
    forward = Forward(served.backbone, None)
    first = config.users.collective
    items = {
        user: encoder.examples(open_user(data, user).history, config.local.max_tokens)
        for user in range(first, first + config.users.target)
    }
    if min(map(len, items.values())) <= ITEMS:
        raise InputError(f"{record}: its target users need more than {ITEMS} history items", field="record")
    by_name: dict[str, list[tuple[float, float, float, float]]] = {}
    for visitor in range(first, first + visitors):
        own = items[visitor][ITEMS:]
        others = [example for user, examples in items.items() if user != visitor for example in examples[:2]]
        before = [loss_on(forward, served, served.shared, part) for part in (own, others)]
        for name, changes in VISITS.items():
            after = visit(forward, served, settings_of(config.local, changes), items[visitor][:ITEMS], visitor)
            scores = [loss_on(forward, served, after, part) for part in (own, others)]
            by_name.setdefault(name, []).append((before[0], scores[0], before[1], scores[1]))
    keys = ("own_before", "own_after", "others_before", "others_after")
    return {
        name: {key: mean(row[place] for row in rows) for place, key in enumerate(keys)}
        for name, rows in by_name.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--visitors", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("results/visit.json"))
    args = parser.parse_args()
    torch.set_num_threads(RunFolder(args.record).config.partitions.cpus_per_client)
    report = measure(args.record, args.visitors)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, scores in report.items():
        own, others = (f"{scores[f'{who}_before']:.3f} → {scores[f'{who}_after']:.3f}" for who in ("own", "others"))
        print(f"{name:30s} own {own}   others {others}")


if __name__ == "__main__":
    main()
