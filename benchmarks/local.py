"""Local work of a PerFit client, ours against the plain baseline, side by side in one run.

Same examples, sites, positions, number format and threads; every variant's loss stands beside its time, since a fast
wrong answer is none. Times are medians over repetitions that take turns, so that a busy moment hits all of them.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from fl_clients.activations import ActivationStore, fingerprint
from fl_clients.backbone import Backbone, load
from fl_clients.batches import Encoder, Example
from fl_clients.fit import answer_loss
from fl_clients.forward import Forward
from fl_clients.lamp.tasks import find_task
from fl_clients.predict import score_labels
from fl_clients.prefix import Prefix
from strategies.adapters.sites import find_blocks
from strategies.perfit import PerFit

EXAMPLES, TOKENS, ANSWER, QUESTIONS = 16, 100, 5, 8
POSITIONS = ("f7+l7", "l7", "all")
VARIANTS = ("plain", "ours, nothing kept", "ours")
"""Nothing kept: logits only where labels are, and labels that share their prompt's computation."""

Row = dict[str, Any]


def local_rows(name: str, sites: list[int], repeats: int) -> list[Row]:
    """Measure steps and evaluations.

    Args:
        name: The backbone.
        sites: Decoder blocks of the shifts.
        repeats: Repetitions; the first of each variant is not counted.

    Returns:
        One row per work, positions, number format and variant: seconds, ratio to plain, loss or score, GFLOP.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            backbone = load(name, "bf16" if precision == "bf16" else "fp32")
            # bf16 is a question of the number format alone: one choice of positions tells.
            for positions in POSITIONS if precision == "fp32" else POSITIONS[:1]:
                store = ActivationStore(Path(folder), 10**10, print)
                rows += _compare(backbone, precision, sites, positions, store, repeats)
    return rows


def _compare(
    backbone: Backbone, precision: str, sites: list[int], positions: str, store: ActivationStore, repeats: int
) -> list[Row]:
    for block in find_blocks(backbone.model):
        block._forward_hooks.clear()
    method = PerFit(sites, positions, min(32, backbone.shape.hidden), 4, True, "mean", 0)
    adapter = method.client_attach(backbone.model, backbone.shape)
    # Away from the identity, so that a variant which forgets the shift has another loss.
    start = {key: value + 0.01 * key.endswith("b") for key, value in method.server_init(backbone.shape).items()}
    method.client_load(adapter, start, None)
    trained = [parameter.requires_grad_(True) for parameter in adapter.parameters()]
    examples = random_examples(backbone)
    prompts = [example.prompt for example in examples[:QUESTIONS]]
    labels = Encoder(find_task("movie_tagging"), backbone.tokenizer).labels
    whole = Forward(backbone, None)
    kept = Forward(
        backbone, Prefix(backbone, fingerprint(backbone.model), adapter.frozen_blocks, adapter.suffix, store)
    )

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
        def run() -> float:
            value = loss()
            torch.autograd.grad(value, trained)
            return value.item()

        return run

    work: dict[str, dict[str, Callable[[], float]]] = {
        "step": {
            VARIANTS[0]: step(lambda: plain.loss(backbone, adapter, examples)),
            VARIANTS[1]: step(lambda: answer_loss(whole, adapter, examples)),
            VARIANTS[2]: step(lambda: answer_loss(kept, adapter, examples)),
        },
        "evaluation": {
            VARIANTS[0]: lambda: plain.score_labels(backbone, adapter, prompts, labels).mean().item(),
            VARIANTS[1]: lambda: score_labels(whole, adapter, prompts, labels).mean().item(),
            VARIANTS[2]: lambda: score_labels(kept, adapter, prompts, labels).mean().item(),
        },
    }
    rows = []
    for kind, variants in work.items():
        seconds, values = _take_turns(variants, repeats)
        for variant, run in variants.items():
            with FlopCounterMode(display=False) as counter:
                run()
            rows.append(
                {
                    "work": kind,
                    "precision": precision,
                    "positions": positions,
                    "variant": variant,
                    "seconds": seconds[variant],
                    "times_faster": seconds[VARIANTS[0]] / seconds[variant],
                    "gflop": counter.get_total_flops() / 1e9,
                    "times_fewer_flop": 0.0,
                    "value": values[variant],
                }
            )
        for row in rows[-len(variants) :]:
            row["times_fewer_flop"] = rows[-len(variants)]["gflop"] / row["gflop"]
    return rows


def random_examples(backbone: Backbone) -> list[Example]:
    """Return examples of random tokens, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    size = (EXAMPLES, TOKENS)
    tokens = torch.randint(10, int(backbone.model.config.vocab_size), size, generator=generator).tolist()
    return [Example(row[:-ANSWER], row[-ANSWER:]) for row in tokens]


def matrix_peak(precision: str) -> float:
    """Measure this machine's matrix products with the threads in use, in GFLOP/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best / 1e9


def _take_turns(variants: dict[str, Callable[[], float]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in variants}
    values: dict[str, float] = {}
    for turn, (name, run) in itertools.product(range(repeats + 1), variants.items()):
        started = time.perf_counter()
        values[name] = run()
        if turn:
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}, values
