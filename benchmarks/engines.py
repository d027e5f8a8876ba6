"""Times the engines against each other: `python -m benchmarks.engines`, or with `--gpus 1` on a CUDA machine.

The same 16 clients under each engine, in turn, so that ratios hold although machines differ; two rounds, of which the
second is timed, so that starts do not count. Without a GPU: one process against several clients in one pass, and Ray
with one thread a client. With one, under ten minutes: bf16, Ray actors that each get a share of its memory, enforced,
against one process; at the end a share that is too small has to fail, and the record to say so. Written to
`results/bench-engines.json`.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from configs.errors import RunFailed
from configs.load import load_config
from fl_server.record.schema import read_run
from simulations.run.simulate import simulate

_COHORT = 16
_TOO_SMALL = 0.002
"""A share of a GPU that no backbone fits in: 0.3 GB of 140."""


def variants(gpus: int) -> dict[str, list[str]]:
    """Return config words by the engine's name in the table."""
    if not gpus:
        passes = {f"{n} clients a pass": ["engine=vectorized", f"clients_per_pass={n}"] for n in (4, 16)}
        return {"inline": ["engine=inline"], **passes, "Ray": ["engine=ray"]}
    gpu = [f"partitions.gpus={gpus}", "precision=bf16"]
    shares = {f"Ray, 1/{n} of a GPU": [*gpu, "engine=ray", f"partitions.per_client={1 / n}"] for n in (1, 2, 4)}
    common = [*gpu, "partitions.per_client=1"]
    passes = {f"{n} clients a pass": [*common, "engine=vectorized", f"clients_per_pass={n}"] for n in (4, 16, 32)}
    return {**shares, "inline": [*common, "engine=inline"], **passes}


def measure(words: list[str], folder: Path) -> dict[str, float]:
    """Run one simulation and return its last round's milliseconds a client, loss and peak memory."""
    simulate(load_config(None, words), "run", folder)
    rounds = pd.read_parquet(folder / "run" / "rounds.parquet")
    clients = pd.read_parquet(folder / "run" / "clients.parquet")
    return {
        "ms_per_client": 1000 * float(rounds.seconds.iloc[-1]) / _COHORT,
        "loss": float(rounds.loss.iloc[-1]),
        "peak_mib": float(clients.peak_memory_bytes.max()) / 2**20,
    }


def too_small(words: list[str], folder: Path) -> str:
    """Return the error of a run whose clients get too small a share of a GPU."""
    try:
        simulate(load_config(None, [*words, f"partitions.per_client={_TOO_SMALL}"]), "small", folder)
    except RunFailed:
        return read_run(folder / "small").error or ""
    return "none: the share is not enforced"


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--method", default="perfit")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if args.gpus and not torch.cuda.is_available():
        parser.error(f"--gpus {args.gpus}: this machine has no CUDA; without --gpus the CPU engines are timed")
    common = [f"backbone={args.backbone}", f"method={args.method}", f"users.collective={_COHORT}", f"cohort={_COHORT}"]
    common += ["users.target=1", "users.synthetic.history=4", "users.synthetic.queries=2", "rounds=2", "local.epochs=1"]
    common += ["evaluate.predictions=false", "activations_mb=0", "faults.retries=0"]
    chosen = variants(args.gpus)
    runs_of: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    report: dict[str, Any] = {"backbone": args.backbone, "method": args.method, "engines": runs_of}
    with tempfile.TemporaryDirectory() as results:
        for repeat in range(args.repeats):
            for name, words in chosen.items():
                runs_of[name].append(measure([*common, *words], Path(results) / str(repeat) / name.replace("/", "-")))
        if args.gpus:
            words = [*common, f"partitions.gpus={args.gpus}", "precision=bf16", "engine=ray"]
            report["too_small_a_share"] = too_small(words, Path(results))
    table = Table("engine", "ms a client", "loss", "peak MiB", title=f"{args.method} on {args.backbone}")
    for name, runs in runs_of.items():
        times = ", ".join(f"{run['ms_per_client']:.1f}" for run in runs)
        table.add_row(name, times, f"{runs[-1]['loss']:.4f}", f"{max(run['peak_mib'] for run in runs):.0f}")
    Console().print(table)
    if args.gpus:
        Console().print(f"with {_TOO_SMALL} of a GPU: {report['too_small_a_share']}")
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-engines.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
