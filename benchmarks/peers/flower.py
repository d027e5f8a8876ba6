"""Plain Flower: FedAvg on its Message API, on its simulation runtime with Ray.

`noop`: a client returns what it gets. `train`: it trains with a backbone that its process has loaded once. `reload`: it
loads the backbone for every message, as FlowerTune's template does.
"""

import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.work import Work, read_users


@lru_cache(maxsize=1)
def loaded(backbone: Path) -> Work:
    return Work(backbone)


@lru_cache(maxsize=1)
def users_of(file: Path, clients: int) -> list[list[list[str]]]:
    return read_users(file, clients)


def client_app(kind: str, backbone: Path, file: Path, clients: int) -> ClientApp:
    """Return the ClientApp of one kind."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        if kind != "noop":
            work = Work(backbone) if kind == "reload" else loaded(backbone)
            work.load(arrays.to_numpy_ndarrays())  # type: ignore[union-attr]
            work.train(users_of(file, clients)[int(context.node_config["partition-id"])])
            arrays = ArrayRecord(work.state())
        metrics = MetricRecord({"num-examples": 6})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def main(kind: str, backbone: Path, file: Path, clients: int) -> None:
    """Run two rounds and print the second one's seconds."""
    ended: list[float] = []
    server = ServerApp()

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=clients)

        def note(number: int, _arrays: ArrayRecord) -> None:
            ended.append(time.perf_counter())

        # The strategy samples before all nodes are there.
        while len(list(grid.get_node_ids())) < clients:
            time.sleep(0.1)
        start = ArrayRecord(Work(backbone).state())
        strategy.start(grid=grid, initial_arrays=start, num_rounds=2, timeout=3600, evaluate_fn=_as_any(note))

    resources: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": os.cpu_count()}}
    run_simulation(server, client_app(kind, backbone, file, clients), clients, backend_config=resources)
    print(float(np.diff(ended)[-1]))


def _as_any(function: Any) -> Any:
    return function


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
