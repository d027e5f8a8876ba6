"""The process of a simulation on Ray: Flower's simulation runtime, with the ServerApp in it.

Flower's own command for it, `flwr-simulation`, takes its run from a SuperLink. Anybody on the machine could give that
SuperLink another app to run, so there is none: nothing but Ray listens, and Ray asks for a token.
"""

import os
import secrets
import signal
from pathlib import Path
from typing import Any

import ray
from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType


def main(app_dir: Path, nodes: int, backend: dict[str, Any]) -> None:
    """Run an app until its ServerApp ends.

    Args:
        app_dir: Its `pyproject.toml` names the ServerApp and the ClientApp and has the run config.
        nodes: Number of simulated SuperNodes.
        backend: Flower's `init_args` and `client_resources` for Ray.
    """
    signal.signal(signal.SIGTERM, _stop)
    run_id, task_id = secrets.randbits(63), secrets.randbits(63)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, SUPERLINK_NODE_ID
    run = Run.create_empty(run_id)
    run.primary_task_id, run.federation_id = task_id, NOOP_FEDERATION_ID
    apps = get_project_config(app_dir)["tool"]["flwr"]["app"]["components"]
    run_config = get_fused_config_from_dir(app_dir, {})
    _run_simulation(
        num_supernodes=nodes,
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        client_app_attr=apps["clientapp"],
        server_app_attr=apps["serverapp"],
        server_app_context=Context(run_id, SUPERLINK_NODE_ID, {}, RecordDict(), run_config),
        app_dir=str(app_dir),
        run=run,
        backend_config=backend,
        is_app=True,
    )


def _stop(*_: object) -> None:
    """End Ray, or leave its cluster, and this process; Flower's threads would wait for each other."""
    ray.shutdown()
    os._exit(1)
