"""Plain Flower: FedAvg on its Message API, on its simulation runtime with Ray.

`noop`: a client returns what it gets. `train`: it trains with a backbone that its process has loaded once. `reload`: it
loads the backbone for every message, as FlowerTune's template does.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.flower_clients import client_app
from benchmarks.peers.work import Work


class CountingFedAvg(FedAvg):
    """Notes when rounds end, and refuses a round in which a client failed."""

    def __init__(self, clients: int) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=clients)
        self.clients, self.ended = clients, list[float]()

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        if failed := [reply for reply in replies if reply.has_error()]:
            raise SystemExit(f"{len(failed)} of {self.clients} clients failed: {failed[0].error.reason}")
        aggregated = super().aggregate_train(server_round, replies)
        self.ended.append(time.perf_counter())
        return aggregated


def main(kind: str, backbone: Path, file: Path, clients: int) -> None:
    """Run two rounds and print the second one's seconds."""
    server, strategy = ServerApp(), CountingFedAvg(clients)

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        # The strategy samples before all nodes are there.
        while len(list(grid.get_node_ids())) < clients:
            time.sleep(0.1)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(Work(backbone).state()), num_rounds=2, timeout=3600)

    resources: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": os.cpu_count()}}
    # Ray's workers find `benchmarks` in the folder that the command started in.
    os.environ["PYTHONPATH"] = str(Path.cwd())
    run_simulation(server, client_app(kind, backbone, file, clients), clients, backend_config=resources)
    ray.shutdown()
    first, second = strategy.ended
    print(second - first)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
