"""What the engine costs: 500 clients on the tiny backbone, driver memory by round, seconds and bytes per client.

Run by `make bench`. Prints what it measured and writes it to `results/bench-engine.json`; nothing is asserted, since
seconds and memory differ between machines.
"""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from configs.load import load_config
from simulations.processes import find_simulation
from simulations.simulate import simulate

CLIENTS, ROUNDS = 500, 3
OVERRIDES = [
    "backbone=tiny",
    "sites=[1,2]",
    "rank.shared=4",
    "rank.private=2",
    f"users.collective={CLIENTS}",
    "users.target=10",
    f"cohort={CLIENTS}",
    f"rounds={ROUNDS}",
    "users.synthetic.history=4",
    "users.synthetic.queries=2",
    "personal.epochs=1",
]


class MemoryByRound:
    """Samples the driver's resident memory at the end of every round."""

    def __init__(self) -> None:
        self.mib: dict[int, float] = {}

    def __call__(self, folder: Path) -> None:
        events = folder / "events.jsonl"
        process = find_simulation()
        if process is None or not events.is_file():
            return
        rounds = [event for line in events.read_text().splitlines() if (event := json.loads(line))["event"] == "round"]
        if rounds:
            self.mib.setdefault(rounds[-1]["round"], process.memory_info().rss / 2**20)


def main() -> None:
    memory = MemoryByRound()
    with tempfile.TemporaryDirectory() as results:
        record = simulate(load_config(None, OVERRIDES), "engine", Path(results), watch=memory)
        rounds = pq.read_table(Path(results) / "engine" / "rounds.parquet").to_pylist()
    report = {
        "clients": CLIENTS,
        "wall_s": record.wall_s,
        "ms_per_client_by_round": {row["round"]: 1000 * row["seconds"] / CLIENTS for row in rounds},
        "driver_mib_by_round": memory.mib,
    }
    print(json.dumps(report, indent=1))
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-engine.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
