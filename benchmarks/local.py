"""A client's local work: fedperfit against the plain baseline, in one run.

All variants use the same examples, sites, positions, number format and threads; every variant's loss is reported with
its time, to show that the results agree. Times are medians over interleaved repetitions, so that a busy moment affects
all variants.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from configs.load import load_config
from fl_clients.backbone.activation_store import ActivationStore, fingerprint
from fl_clients.backbone.batches import Encoder, Example
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.frozen_prefix import FrozenPrefix
from fl_clients.backbone.load import Backbone, load
from fl_clients.fit import answer_loss
from fl_clients.lamp.tasks import find_task
from fl_clients.predict import score_labels
from strategies.blocks import find_blocks
from strategies.loading import load_method
from strategies.lora.common import COLLECTIVE
from strategies.method import Adapter
from strategies.perfit import PerFit

EXAMPLES, TOKENS, ANSWER, QUESTIONS = 16, 100, 5, 4
POSITIONS = ("f7+l7", "l7", "all")
PLAIN, WHOLE = "plain", "logits at labels, prompts shared"
HIDDEN, KEYS = "and hidden states kept", "and keys and values kept"

_PRODUCTS = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten._scaled_dot_product")

Row = dict[str, Any]


def local_rows(name: str, sites: list[int], repeats: int) -> list[Row]:
    """Measure steps and evaluations; each variant adds one saving to the previous one.

    Args:
        name: The backbone's name.
        sites: Decoder blocks of the shifts.
        repeats: Timed repetitions, after the runs that count each variant's FLOPs.

    Returns:
        One row per work, number format and variant: seconds, ratio to plain, loss or score, GFLOP, share of the time in
        matrix products.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        store = ActivationStore(Path(folder), 10**10, print)
        for precision in ("fp32", "bf16"):
            backbone = load(name, "bf16" if precision == "bf16" else "fp32")
            # bf16 changes only the number format, so one choice of positions is enough.
            for positions in POSITIONS if precision == "fp32" else POSITIONS[:1]:
                rows += _shift_rows(backbone, f"{positions}, {precision}", sites, positions, store, repeats)
            rows += _lora_rows(backbone, f"LoRA, {precision}", repeats)
    return rows


def _shift_rows(
    backbone: Backbone, title: str, sites: list[int], positions: str, store: ActivationStore, repeats: int
) -> list[Row]:
    for block in find_blocks(backbone.model):
        block._forward_hooks.clear()
    method = PerFit(sites, positions, min(32, backbone.shape.hidden), 4, True, "mean", 0)
    adapter = method.client_attach(backbone.model, backbone.shape)
    # Not the identity, so that a variant that ignores the shift has a different loss.
    start = {key: value + 0.01 * key.endswith("b") for key, value in method.server_init(backbone.shape).items()}
    method.client_load(adapter, start, None)
    identity = fingerprint(backbone.model)

    def kept(suffix: int | None) -> Forward:
        return Forward(backbone, FrozenPrefix(backbone, identity, adapter.frozen_blocks, suffix, store))

    forwards = {WHOLE: Forward(backbone, None), HIDDEN: kept(None)}
    if adapter.suffix:
        forwards[KEYS] = kept(adapter.suffix)
    return _rows(backbone, title, adapter, list(adapter.parameters()), forwards, repeats)


def _lora_rows(backbone: Backbone, title: str, repeats: int) -> list[Row]:
    """Measure LoRA-C's client; the plain variant is the usual `peft` code: the whole model, all logits."""
    for block in find_blocks(backbone.model):
        block._forward_hooks.clear()
    config = load_config(None, ["method=lora-c"])
    # Without dropout, so that all variants have the same loss.
    method = load_method(config.method, config.method_values(), {**config.settings, "dropout": 0.0})
    adapter: Any = method.client_attach(backbone.model, backbone.shape)
    method.client_load(adapter, method.server_init(backbone.shape), None)
    forwards = {WHOLE: Forward(backbone, None)}
    return _rows(backbone, title, adapter, adapter.trainable(COLLECTIVE), forwards, repeats)


def _rows(
    backbone: Backbone,
    title: str,
    adapter: Adapter,
    trained: Sequence[nn.Parameter],
    forwards: dict[str, Forward],
    repeats: int,
) -> list[Row]:
    for parameter in trained:
        parameter.requires_grad_(True)
    examples = random_examples(backbone)
    prompts = [example.prompt for example in examples[:QUESTIONS]]
    labels = Encoder(find_task("movie_tagging"), backbone.tokenizer).labels

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
        def run() -> float:
            value = loss()
            torch.autograd.grad(value, trained)
            return value.item()

        return run

    def steps(forward: Forward) -> Callable[[], float]:
        return step(lambda: answer_loss(forward, adapter, examples))

    def scores(forward: Forward) -> Callable[[], float]:
        return lambda: score_labels(forward, adapter, prompts, labels).mean().item()

    work: dict[str, dict[str, Callable[[], float]]] = {
        "step": {PLAIN: step(lambda: plain.loss(backbone, adapter, examples))}
        | {name: steps(forward) for name, forward in forwards.items()},
        "evaluation": {PLAIN: lambda: plain.score_labels(backbone, adapter, prompts, labels).mean().item()}
        | {name: scores(forward) for name, forward in forwards.items()},
    }
    rows: list[Row] = []
    for kind, variants in work.items():
        for name in forwards:
            variants[name]()  # fills the stores
        rows += _measure(f"{kind}, {title}", variants, repeats)
    return rows


def _measure(title: str, variants: dict[str, Callable[[], float]], repeats: int) -> list[Row]:
    gflop = {variant: _gflop(run) for variant, run in variants.items()}
    share = {variant: _share_in_products(run) for variant, run in variants.items()}
    seconds, values = _take_turns(variants, repeats)
    return [
        {
            "work": title,
            "precision": "bf16" if "bf16" in title else "fp32",
            "variant": variant,
            "seconds": seconds[variant],
            "times_faster": seconds[PLAIN] / seconds[variant],
            "gflop": gflop[variant],
            "times_fewer_flop": gflop[PLAIN] / gflop[variant],
            "in_matrix_products": share[variant],
            "value": values[variant],
        }
        for variant in variants
    ]


def _gflop(run: Callable[[], float]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


class _ProductTime(TorchDispatchMode):
    """Sums the seconds spent in matrix products, including those in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if str(func).startswith(_PRODUCTS):
            self.seconds += time.perf_counter() - started
        return result


def _share_in_products(run: Callable[[], float]) -> float:
    started = time.perf_counter()
    with _ProductTime() as products:
        run()
    return float(products.seconds) / (time.perf_counter() - started)


def random_examples(backbone: Backbone) -> list[Example]:
    """Return examples of random tokens, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    size = (EXAMPLES, TOKENS)
    tokens = torch.randint(10, int(backbone.model.config.vocab_size), size, generator=generator).tolist()
    return [Example(row[:-ANSWER], row[-ANSWER:]) for row in tokens]


def matrix_peak(precision: str) -> float:
    """Measure the speed of this machine's matrix products with the current threads, in GFLOP/s."""
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
    for _, (name, run) in itertools.product(range(repeats), variants.items()):
        started = time.perf_counter()
        values[name] = run()
        times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}, values
