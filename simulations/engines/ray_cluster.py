"""Checks a running Ray cluster before a run joins it: it must be reachable, and every node must be able to run clients.

Ray itself refuses nodes with another version of Python or Ray. Everything else is checked here, in a separate process,
since a process can join a cluster only once.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.import_path import ROOT
from configs.paths import cache_dir, expand
from configs.versions import difference, versions_here
from fl_clients.backbone.load import find
from simulations.engines.processes import without_proxy

_CONNECT_S, _ANSWER_S = 5.0, 120.0


def cluster_address(configured: str) -> str | None:
    """Return the address of the cluster to join, from the config or `RAY_ADDRESS`; None if the run starts Ray."""
    address = configured or os.environ.get("RAY_ADDRESS", "")
    return address if address not in ("", "local") else None


def check_cluster(address: str, backbone: str, results: Path) -> None:
    """Refuse a cluster that cannot be reached, or that has a node on which the run's clients cannot work.

    Args:
        address: `host:port`, or `auto`.
        backbone: The config's backbone; every node must have it.
        results: The results folder. It must be the same folder on every node, as must `users` in the cache folder.

    Raises:
        InputError: The cluster or a node cannot be used; the message names the address, the node and the reason.
    """
    _check_reachable(address)
    with ExitStack() as probes:
        files = []
        for folder in (expand(results).resolve(), cache_dir() / "users"):
            files.append(folder / f".probe-{uuid.uuid4().hex}")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                files[-1].touch()
            except OSError as error:
                raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
            probes.callback(files[-1].unlink)
        command = [sys.executable, "-P", "-m", "simulations.engines.ray_cluster", address, backbone, *map(str, files)]
        environment = without_proxy({key: value for key, value in os.environ.items() if key != "RAY_TMPDIR"})
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_ANSWER_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"ray.address={address}: the cluster did not answer in {_ANSWER_S:.0f} s") from None
    if done.returncode:
        errors = done.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"ray.address={address}: {errors[-1]}")
    for node in json.loads(done.stdout.splitlines()[-1]):
        if problem := _problem(node):
            raise InputError(f"ray.address={address}: node {node['node']}: {problem}")


def inspect_machine(backbone: str, probes: list[str]) -> dict[str, Any]:
    """Return what a run requires of a node, as found on this machine.

    Args:
        backbone: A value of the config's `backbone`.
        probes: Files in the folders that all nodes must share.
    """
    missing = None
    try:
        find(backbone)
    except InputError as error:
        missing = str(error)
    unseen = [probe for probe in probes if not Path(probe).is_file()]
    return {"versions": versions_here(), "backbone": missing, "unseen": unseen}


def _problem(node: dict[str, Any]) -> str | None:
    """Return what is wrong with a node; None if nothing is."""
    if "error" in node:
        return f"fedperfit cannot be imported: {node['error']}"
    if other := difference(node["versions"]):
        return other
    if node["unseen"]:
        folder = Path(node["unseen"][0]).parent
        return f"{folder} is a different folder; results and users must be in a folder that all nodes share"
    if node["backbone"]:
        return f"{node['backbone']} (run `fedperfit backbone fetch` on it, or set FEDPERFIT_CACHE to a shared folder)"
    return None


def _check_reachable(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise InputError(
            f"ray.address={address}: expected host:port of a cluster that this machine is a node of, or auto"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise InputError(
            f"ray.address={address}: no cluster answers ({error}); `ray start --head` starts one"
        ) from None


def _ask_nodes(address: str, backbone: str, probes: list[str]) -> list[dict[str, Any]]:
    """Query each node that can run a client; called in a separate process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)

    @ray.remote(num_cpus=0, max_retries=0)
    def answer() -> dict[str, Any]:
        try:
            from simulations.engines.ray_cluster import inspect_machine

            return inspect_machine(backbone, probes)
        except ImportError as error:
            return {"error": str(error)}

    pending = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            pending[f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"] = answer.options(
                scheduling_strategy=on_node
            ).remote()
    if not pending:
        raise SystemExit("no node of this cluster has a CPU for clients")
    answers = []
    for name, reply in pending.items():
        # A node that has just died is still listed.
        with suppress(ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            state: dict[str, Any] = ray.get(reply)
            answers.append({"node": name, **state})
    return answers


if __name__ == "__main__":
    print(json.dumps(_ask_nodes(sys.argv[1], sys.argv[2], sys.argv[3:])))
