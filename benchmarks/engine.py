"""Measures the engine's cost: many clients on the tiny backbone, driver memory by round, time per client.

`python -m benchmarks.engine` (part of `make bench`) runs 100 and 2,000 users for five rounds;
`--users 100,10000 --rounds 1` chooses others. Prints the measurements and writes them to `results/bench-engine.json`;
nothing is asserted, since time and memory differ between machines.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from configs.load import load_config
from simulations.run.simulate import simulate

OVERRIDES = [
    "backbone=tiny",
    "sites=[1,2]",
    "rank.shared=4",
    "rank.private=2",
    "users.target=10",
    "users.synthetic.history=4",
    "users.synthetic.queries=2",
    "personal.epochs=1",
]


class MemoryByRound:
    """Samples the driver's resident memory at the end of every round."""

    def __init__(self) -> None:
        self.mib: dict[int, float] = {}

    def __call__(self, folder: Path) -> None:
        process = next((child for child in psutil.Process().children() if child.name().startswith("python")), None)
        # A part of the table is written at the end of a round; the events of many clients would take long to read.
        if process and (rounds := len(list((folder / ".rounds").glob("*.parquet")))):
            self.mib.setdefault(rounds, process.memory_info().rss / 2**20)


def measure(users: int, rounds: int, cohort: int) -> dict[str, Any]:
    memory = MemoryByRound()
    words = [f"users.collective={users}", f"cohort={min(cohort, users)}", f"rounds={rounds}"]
    with tempfile.TemporaryDirectory() as results:
        record = simulate(load_config(None, [*OVERRIDES, *words]), "engine", Path(results), on_progress=memory)
        rows = pq.read_table(Path(results) / "engine" / "rounds.parquet").to_pylist()
    return {
        "users": users,
        "cohort": min(cohort, users),
        "wall_s": record.wall_s,
        "ms_per_client_by_round": {row["round"]: 1000 * row["seconds"] / row["cohort"] for row in rows},
        "driver_mib_by_round": memory.mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default="100,2000", help="comma-separated, in ascending order")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cohort", type=int, default=500)
    args = parser.parse_args()
    runs = [measure(int(users), args.rounds, args.cohort) for users in args.users.split(",")]
    report: dict[str, Any] = {"runs": runs}
    first, last = runs[0], runs[-1]
    least, most = (next(iter(run["driver_mib_by_round"].values()), None) for run in (first, last))
    if first["users"] < last["users"] and least and most:  # a short run may end between two samples
        more = most - least
        report["driver_kib_per_user"] = 1024 * more / (last["users"] - first["users"])
    print(json.dumps(report, indent=1))
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-engine.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
