"""Tests that need the real backbone: processes share one copy of its weights, and the error of bf16 is bounded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.load import load_config
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.builtin import backbone_folder, fetch
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import load
from fl_clients.fit import LocalFit
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from fl_clients.predict import score_labels
from strategies.method import TrainRequest
from strategies.perfit import PerFit

pytestmark = pytest.mark.slow

LOADED = """
import sys, torch
from fl_clients.backbone.load import load
backbone = load("smollm2-135m", "fp32")
backbone.model(torch.arange(64)[None])
print("ready", flush=True)
sys.stdin.readline()
inside, total = False, 0
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        inside = line.rstrip().endswith(".safetensors")
    elif inside and line.startswith("Pss:"):
        total += int(line.split()[1]) * 1024
print(total, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_processes_share_one_copy_of_the_weights() -> None:
    fetch("smollm2-135m")
    weights = (backbone_folder("smollm2-135m") / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", LOADED]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        mapped = 0
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin
            assert child.stdout
            child.stdin.write("\n")
            child.stdin.flush()
            mapped += int(child.stdout.readline())
    finally:
        for child in children:
            child.kill()
            child.wait()
    # These are proportional shares of the mapped file; private copies would not be included at all.
    assert 0 < mapped <= 1.2 * weights


def test_bf16_changes_losses_and_quality_within_bounds() -> None:
    config = load_config(
        None,
        [
            "cohort=1",
            "users.collective=1",
            "users.target=1",
            "users.synthetic.history=8",
            "users.synthetic.queries=6",
        ],
    )
    task = find_task(config.task)
    _, history, queries = open_user(build_table(config).folder, 0)
    golds = torch.tensor([task.labels.index(query.target) for query in queries])
    losses: dict[str, tuple[float, float]] = {}
    scores: dict[str, torch.Tensor] = {}
    for precision in ("fp32", "bf16"):
        backbone = load("smollm2-135m", "bf16" if precision == "bf16" else "fp32")
        encoder = Encoder(task, backbone.tokenizer)
        method = PerFit([20, 22], "all", 32, 4, True, "mean", 0)
        adapter = method.client_attach(backbone.model, backbone.shape)
        forward = Forward(backbone, None)
        settings = config.local.model_copy(update={"epochs": 2, "batch_size": 4})
        fit = LocalFit(forward, adapter, encoder.examples(history, 256), settings, 0)
        trained = method.client_train(adapter, TrainRequest(1, method.server_init(backbone.shape), {}, fit))
        losses[precision] = (trained.fit.loss_first, trained.fit.loss_last)
        prompts = [encoder.prompt(query.source, 250)[0] for query in queries]
        scores[precision] = score_labels(forward, adapter, prompts, encoder.labels)
    for ours, theirs in zip(losses["bf16"], losses["fp32"], strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=0.05)
    # The training has an effect.
    assert losses["fp32"][1] < 0.8 * losses["fp32"][0]
    hits = {precision: (values.argmax(dim=1) == golds).float().mean() for precision, values in scores.items()}
    assert abs(float(hits["bf16"] - hits["fp32"])) <= 0.1
    gap = scores["bf16"].log_softmax(1) - scores["fp32"].log_softmax(1)
    assert float(gap.gather(1, golds[:, None]).abs().mean()) <= 0.15
