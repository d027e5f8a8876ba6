"""A Ray actor that answers messages for one client after another; `RayGrid` makes one per partition."""

import os
from collections.abc import Mapping

import ray

from configs.load import read_resolved
from configs.paths import DRIVER, NODE, run_dir
from fl_clients.process.time_limit import limited_to
from simulations.engines.grid import answer
from simulations.engines.processes import die_with_parent, end_with


@ray.remote(max_restarts=0, max_task_retries=0)
class Worker:
    """A client process. It ends if a task exceeds `faults.client_seconds`, and soon after the driver's process."""

    def __init__(self, num_nodes: int, run_config: Mapping[str, str]) -> None:
        """Load the ClientApp."""
        from fl_clients.app import app  # slow to import, and the driver, which imports this module, does not need it

        self._app = app
        self._num_nodes, self._run_config = num_nodes, run_config
        self._seconds = read_resolved(run_dir(run_config, 0) / "config.toml").faults.client_seconds
        if len(ray.nodes()) > 1:
            # The node's id becomes part of the partition's name.
            os.environ[NODE] = ray.get_runtime_context().get_node_id()[:8]
        die_with_parent()
        if DRIVER in os.environ:
            end_with(int(os.environ[DRIVER]))

    def answer(self, message: bytes) -> bytes:
        """Answer a serialised message; an exception becomes an error message."""
        with limited_to(self._seconds):
            return answer(self._app, message, self._num_nodes, self._run_config)
