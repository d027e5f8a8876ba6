"""Times this engine beside its peers: `python -m benchmarks.peers --clients 100,1000`.

Each client takes one step of LoRA (rank 2, q, k and v of every block) on the tiny backbone and the same examples. Each
peer runs in processes of its own, in turn: two rounds, of which the second is timed, so that starts and imports do not
count. Ours also keeps its record (ledger, checkpoint, checks of updates), which no peer has. pfl gets an environment
made here with `venv` and `pip`. Written to `results/bench-peers.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from configs.errors import InputError
from configs.import_path import ROOT
from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.backbone.builtin import fetch
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from simulations.cli.options import read_numbers
from simulations.run.simulate import simulate

_KEPT = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "safetensors", "huggingface-hub")
_SAMPLE_S = 1.0


class PeakMemory:
    """Samples the memory (PSS) of this process's descendants until the block ends."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_full_info().pss
                except psutil.Error:
                    continue
            self.mib = max(self.mib, total / 2**20)


def ours(engine: str, clients: int) -> RunConfig:
    """Return the config of one of this project's engines for the peers' work."""
    words = ["method=lora-c", "backbone=tiny", "settings.rank=2", "settings.alpha=2", "settings.dropout=0", "rounds=2"]
    words += ["precision=fp32"]
    words += ["users.synthetic.history=4", "users.synthetic.queries=2", "local.batch_size=16", "users.target=1"]
    words += [f"users.collective={clients}", f"cohort={clients}", f"engine={engine}", "evaluate.predictions=false"]
    return load_config(None, words)


def write_users(clients: int, file: Path) -> None:
    """Write each client's prompts and answers as lines of JSON."""
    config = ours("inline", clients)
    prompt = find_task(config.task).prompt
    folder = build_table(config).folder
    with file.open("w", encoding="utf-8") as lines:
        for partition in range(clients):
            user = open_user(folder, partition)
            pairs = [[prompt.format(source=pair.source), f" {pair.target}"] for pair in user.history + user.queries]
            lines.write(json.dumps(pairs) + "\n")


def environment(folder: Path, *packages: str) -> Path:
    """Make an environment with some packages in our versions of PyTorch, transformers and peft; return its Python."""
    python = folder / "bin" / "python"
    if not (folder / ".made").is_file():
        venv.create(folder, with_pip=True)
        pins = folder / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pins.write_text("\n".join(line for line in lines if line.partition("==")[0] in _KEPT) + "\n")
        wanted = ["torch", "transformers", "peft", *packages]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", pins, *wanted], check=True)
        (folder / ".made").touch()
    return python


def timed(command: list[Any], clients: int) -> dict[str, float]:
    """Run a command whose last line is the seconds of a round."""
    with PeakMemory() as memory:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    seconds = float(done.stdout.split()[-1])
    return {"clients_per_s": clients / seconds, "ms_per_client": 1000 * seconds / clients, "peak_mib": memory.mib}


def measure(clients: int, pfl: Path | None, file: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Run every peer with so many clients, in turn, and return medians."""
    common = [str(fetch("tiny")), str(file), str(clients)]
    python, peer, cores = sys.executable, "benchmarks.peers.", f"{os.cpu_count()} cores"
    own = [python, "-m", "benchmarks.peers", "--clients", str(clients), "--ours"]
    commands: dict[str, list[Any]] = {
        "fedperfit, inline (1 core)": [*own, "inline"],
        "fedperfit, 16 clients a pass (1 core)": [*own, "vectorized"],
        f"fedperfit, Ray ({cores})": [*own, "ray"],
        "a loop over peft (1 core)": [python, "-m", f"{peer}plain_loop", *common],
        f"Flower ({cores})": [python, "-m", f"{peer}flower", "train", *common],
        f"Flower, backbone per message ({cores})": [python, "-m", f"{peer}flower", "reload", *common],
        f"Flower, no work ({cores})": [python, "-m", f"{peer}flower", "noop", *common],
    }
    if pfl:
        commands["pfl 0.6 (1 core)"] = [pfl, "-m", f"{peer}apple_pfl", *common]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            rows[name].append(timed(command, clients))
            print(f"{clients} clients, {name}: {rows[name][-1]['ms_per_client']:.1f} ms a client", file=sys.stderr)
    return {name: {key: median(row[key] for row in runs) for key in runs[0]} for name, runs in rows.items()}


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="100,1000", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="the table has medians")
    parser.add_argument("--environments", type=Path, help="folder for pfl's environment, kept; without it, no pfl")
    parser.add_argument("--ours", choices=("inline", "vectorized", "ray"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        counts = read_numbers("clients", args.clients, example="100,1000")
    except InputError as error:
        parser.error(str(error))
    if not counts or min(*counts, args.repeats) < 1:
        parser.error(f"--clients {args.clients} --repeats {args.repeats}: expected numbers from 1")
    if args.ours:
        with tempfile.TemporaryDirectory() as results:
            simulate(ours(args.ours, counts[0]), "peer", Path(results))
            lines = (Path(results) / "peer" / "events.jsonl").read_text(encoding="utf-8").splitlines()
            first, second = (event["time"] for line in lines if (event := json.loads(line))["event"] == "round")
            print(second - first)
        return
    pfl = environment(args.environments / "pfl", "pfl[pytorch]==0.6.0") if args.environments else None
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            file = Path(scratch) / f"{count}.jsonl"
            write_users(count, file)
            report[str(count)] = measure(count, pfl, file, args.repeats)
            table = Table("engine", "clients/s", "ms a client", "peak MiB", title=f"{count} clients, one round")
            for name, row in report[str(count)].items():
                cells = (f"{row['clients_per_s']:.1f}", f"{row['ms_per_client']:.1f}", f"{row['peak_mib']:.0f}")
                table.add_row(name, *cells)
            Console().print(table)
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-peers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
