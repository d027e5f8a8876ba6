"""The process of a simulation on Ray, with the ServerApp in it.

Flower's own command for it, `flwr-simulation`, takes its run from a SuperLink. Anybody on the machine could give that
SuperLink another app to run, so there is none: nothing but Ray listens, and Ray asks for a token.
"""

import os
import signal
import sys
import traceback
from functools import partial
from typing import Any, NoReturn

import ray

from simulations.engines.grid import run_server
from simulations.engines.ray_grid import RayGrid


def main(nodes: int, backend: dict[str, Any], run_config: dict[str, str]) -> None:
    """Run a federation until its ServerApp ends, and end this process.

    Args:
        nodes: Number of clients.
        backend: `init_args` for Ray, None if it joins a cluster; `client_resources` of each client.
        run_config: Flower's run config.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        grid = RayGrid(
            nodes, run_config, backend["client_resources"], partial(_connect, backend["init_args"]), _give_up
        )
        from fl_server.app import app  # PyTorch loads while Ray starts

        run_server(app, grid, run_config)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def _connect(init_args: dict[str, Any] | None) -> None:
    """Start Ray, or join the cluster that `RAY_ADDRESS` names; its workers import what this process imports."""
    path = os.pathsep.join(sys.path)
    if init_args is None:
        ray.init(include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
        return
    # Not a runtime environment: Ray would not use the workers that it starts in advance.
    os.environ["PYTHONPATH"] = path
    ray.init(include_dashboard=False, **init_args)


def _give_up(reason: str) -> NoReturn:
    """End this process with its last words; the launcher starts another."""
    print(f"RuntimeError: {reason}", file=sys.stderr)
    _end(1)


def _stop(*_: object) -> None:
    """End this process as one that was stopped."""
    _end(1)


def _end(code: int) -> NoReturn:
    """End Ray, or leave its cluster, and this process, whose threads wait for workers."""
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
