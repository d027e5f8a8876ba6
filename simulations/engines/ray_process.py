"""The process of a simulation on Ray, with the ServerApp in it.

Flower's own command for it, `flwr-simulation`, takes its run from a SuperLink. Anybody on the machine could give that
SuperLink another app to run, so there is none: nothing but Ray listens, and Ray asks for a token.
"""

import json
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ray

from simulations.engines.grid import run_server
from simulations.engines.ray_grid import RayGrid


def main(nodes: int, backend: dict[str, Any]) -> None:
    """Start Ray, take a run from standard input, run it until its ServerApp ends, and end this process.

    Args:
        nodes: Number of clients.
        backend: `init_args` for Ray, None if it joins a cluster; `client_resources` and `client_seconds` of each
            client.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        connect = partial(_connect, backend["init_args"])
        grid = RayGrid(nodes, backend["client_resources"], backend["client_seconds"], connect, _give_up)
        from fl_server.app import app  # PyTorch loads while Ray starts

        grid.run_config = _take_run()
        run_server(app, grid, grid.run_config)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def _take_run() -> dict[str, str]:
    """Wait for the run config, and write to that run's log from then on."""
    if not (text := sys.stdin.read()):
        _end(0)  # there is nothing to run: an input is invalid
    run_config: dict[str, str] = json.loads(text)
    with Path(run_config["run-dir"], "engine.log").open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    return run_config


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
