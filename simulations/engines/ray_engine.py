"""Runs a simulation on Ray in a process of its own, and ends every process it starts."""

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from configs.errors import RunFailed
from configs.files import append_line
from configs.paths import DRIVER, cache_dir
from configs.schema import PartitionsConfig
from simulations.engines.isolation import leave_network
from simulations.engines.processes import (
    MARK,
    ProcessTree,
    adopt_orphans,
    die_with_parent,
    ignore_signals,
    without_proxy,
)

_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_NO_SECOND_RAY = {"RAY_ENABLE_AUTO_CONNECT": "0"}
"""A call after Ray has ended would start it again."""

_MARK_FILE = ".mark"
_PREFIX = "fpf-"
_PATIENCE_S = 20.0
"""A start that takes longer says what it waits for."""


def end_leftovers(run_dir: Path) -> None:
    """End the processes that a killed run left running, and remove their temporary folder.

    The record may come from an untrusted source, so this ends only processes of the current user that carry the run's
    mark, and removes only a temporary run folder that the current user owns.

    Raises:
        RunFailed: A process could not be ended.
    """
    if not (file := run_dir / _MARK_FILE).is_file():
        return
    mark, _, home = file.read_text(encoding="utf-8", errors="replace").partition("\n")
    if re.fullmatch("[0-9a-f]{32}", mark) and (left := ProcessTree(mark).end()):
        raise RunFailed(f"processes {left} of the killed run could not be ended")
    if _is_a_runs_home(Path(home)):
        shutil.rmtree(home, ignore_errors=True)
    file.unlink()


def _is_a_runs_home(folder: Path) -> bool:
    """Tell whether a folder is one that `Simulation` makes for this user: not a link, directly under its parent."""
    try:
        about = folder.lstat()
    except (OSError, ValueError):
        return False
    ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    return ours and folder.is_absolute() and folder.parent == _temporary() and folder.name.startswith(_PREFIX)


def _temporary() -> Path:
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


class Simulation:
    """The process of a simulation, and all processes that it starts."""

    def __init__(self, run_dir: Path, cluster: str | None) -> None:
        """Prepare the environment of a run's processes.

        Args:
            run_dir: The run record.
            cluster: Address of the Ray cluster to join; None starts Ray for this run only.
        """
        self._cluster = cluster
        self._log = run_dir / "engine.log"
        mark = uuid.uuid4().hex
        self._processes = ProcessTree(mark)
        # Ray keeps sockets here, and a socket's path is limited to 107 bytes, so this is not in the run record.
        self._home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary()))
        self._mark_file = run_dir / _MARK_FILE
        self._mark_file.write_text(f"{mark}\n{self._home}")
        inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        # The processes run in another folder, so every path is made absolute.
        path = [str(Path(folder).resolve()) for folder in inherited]
        self._environment = {
            **without_proxy(os.environ),
            **_QUIET,
            **_NO_SECOND_RAY,
            MARK: mark,
            DRIVER: str(os.getpid()),
            "FLWR_HOME": str(self._home / "flwr"),
            "PYTHONPATH": os.pathsep.join(path),
            "FEDPERFIT_CACHE": str(cache_dir()),
            "PYTHONFAULTHANDLER": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "RAY_ADDRESS": cluster or "local",
            "HF_HUB_OFFLINE": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        if not cluster:
            # Keep Ray on loopback, separate from any other cluster on this machine, and closed to other users.
            self._environment |= {
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_TMPDIR": str(self._home),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
            }

    def run(
        self, partitions: PartitionsConfig, nodes: int, run_config: dict[str, str], tick: Callable[[], None]
    ) -> None:
        """Start everything, submit the run, wait for its end, and leave no process behind.

        Args:
            partitions: The resources of each client.
            nodes: Number of clients.
            run_config: Flower's run config.
            tick: Called a few times a second during the run.

        Raises:
            RunFailed: A process could not be ended.
        """
        adopt_orphans(True)
        try:
            process = self._start(partitions, nodes, run_config)
            self._wait(process, tick)
        finally:
            with ignore_signals():
                left = self._processes.end()
                self._mark_file.unlink(missing_ok=True)
                adopt_orphans(False)
                shutil.rmtree(self._home, ignore_errors=True)
        if left:
            raise RunFailed(f"processes {left} of this run could not be ended")

    def _start(self, partitions: PartitionsConfig, nodes: int, run_config: dict[str, str]) -> subprocess.Popen[bytes]:
        backend = {
            "client_resources": {"num_cpus": partitions.cpus_per_client, "num_gpus": float(partitions.per_client)},
            # A cluster's nodes define its resources.
            "init_args": None if self._cluster else {"num_cpus": partitions.cpus, "num_gpus": int(partitions.gpus)},
        }
        module = [sys.executable, "-P", "-m", "fedperfit.flower_apps.simulation"]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*module, str(nodes), json.dumps(backend), json.dumps(run_config)],
                env=self._environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent if self._cluster else _alone,
            )
        self._processes.started.append(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes], tick: Callable[[], None]) -> None:
        """Wait for the process to end; only the record says how the run ended."""
        slow = time.monotonic() + _PATIENCE_S
        while process.poll() is None:
            self._processes.reap()
            if slow and time.monotonic() > slow:
                slow = 0.0
                self._say_what_is_awaited()
            tick()
            time.sleep(0.2)
        tick()

    def _say_what_is_awaited(self) -> None:
        """Write a note if no client has answered yet."""
        events = self._log.with_name("events.jsonl")
        if events.is_file() and '"event": "phase"' in events.read_text(encoding="utf-8"):
            return
        text = f"still waiting for Ray and the clients after {_PATIENCE_S:.0f} s; {self._log} has their messages"
        append_line(events, {"event": "note", "text": text})


def _alone() -> None:
    leave_network()
    die_with_parent()
