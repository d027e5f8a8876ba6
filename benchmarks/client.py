"""One client of `benchmarks/processes.py`: trains for some seconds on a signal, then reports its steps and memory."""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.local import random_examples
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import load
from fl_clients.fit import answer_loss
from strategies.perfit import PerFit


def main(name: str, threads: int, site: int, seconds: float) -> None:
    """Train and report; see the module's docstring."""
    torch.set_num_threads(threads)
    backbone = load(name, "fp32")
    method = PerFit([site], "all", 4, 4, True, "mean", 0)
    adapter = method.client_attach(backbone.model, backbone.shape)
    method.client_load(adapter, method.server_init(backbone.shape), None)
    trained = [parameter.requires_grad_(True) for parameter in adapter.parameters()]
    examples = random_examples(backbone)[:4]
    forward = Forward(backbone, None)

    def step() -> None:
        torch.autograd.grad(answer_loss(forward, adapter, examples), trained)

    step()
    print("ready", flush=True)
    sys.stdin.readline()
    end, steps = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        step()
        steps += 1
    rollup = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    print(json.dumps({"steps": steps, "pss": int(rollup["Pss"].split()[0]) * 1024}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
