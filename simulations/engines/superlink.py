"""Runs a private Flower SuperLink in simulation mode, with Ray, and ends every process they start."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import tomli_w

from configs.errors import RunFailed
from configs.paths import DRIVER, cache_dir
from configs.schema import PartitionsConfig
from fl_server.record.schema import append_line
from simulations.engines.processes import (
    MARK,
    ProcessTree,
    adopt_orphans,
    die_with_parent,
    find_simulation,
    free_port,
    ignore_signals,
    is_alive,
    without_proxy,
)

_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

_HEALTH_S, _GRACE_S, _PORT_TRIES = 60.0, 5.0, 5

_MARK_FILE = ".mark"
_PREFIX = "fpf-"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores proxies, since it only asks this machine."""
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
    """A SuperLink, the run submitted to it, and all processes they start."""

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
            **os.environ,
            **_QUIET,
            MARK: mark,
            DRIVER: str(os.getpid()),
            "FLWR_HOME": str(self._home / "flwr"),
            "PYTHONPATH": os.pathsep.join(path),
            "FEDPERFIT_CACHE": str(cache_dir()),
            "PYTHONFAULTHANDLER": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "RAY_ADDRESS": cluster or "local",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self._environment |= without_proxy(cluster)
        if not cluster:
            # Keep Ray on loopback, separate from any other cluster on this machine.
            self._environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_TMPDIR": str(self._home)}

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
            RunFailed: Flower did not start or ended early, or a process could not be ended.
        """
        adopt_orphans(True)
        try:
            link = self._start_superlink()
            stream = self._submit(partitions, nodes, run_config)
            self._wait(link, stream, tick)
        finally:
            with ignore_signals():
                left = self._processes.end()
                self._mark_file.unlink(missing_ok=True)
                adopt_orphans(False)
                shutil.rmtree(self._home, ignore_errors=True)
        if left:
            raise RunFailed(f"processes {left} of this run could not be ended")

    def _start_superlink(self) -> subprocess.Popen[bytes]:
        home = Path(self._environment["FLWR_HOME"])
        home.mkdir(parents=True)
        for _ in range(_PORT_TRIES):
            port = free_port()
            connection = {"default": "local", "local": {"address": f"127.0.0.1:{port}", "insecure": True}}
            (home / "config.toml").write_text(tomli_w.dumps({"superlink": connection}))
            command = [
                "flower-superlink",
                "--insecure",
                "--simulation",
                "--disable-runtime-dependency-installation",
            ]
            link = self._start([*command, "--host", "127.0.0.1", "--port", str(port)])
            if _is_healthy(link, port):
                return link
        raise RunFailed(f"Flower's SuperLink did not start; see {self._log}")

    def _submit(self, partitions: PartitionsConfig, nodes: int, run_config: dict[str, str]) -> subprocess.Popen[bytes]:
        bundle = self._home / "app"
        bundle.mkdir()
        components = {
            "serverapp": "fedperfit.flower_apps.simulation_server:app",
            "clientapp": "fedperfit.flower_apps.simulation_client:app",
        }
        flower = {"publisher": "fedperfit", "components": components, "config": run_config}
        project = {
            "name": "fedperfit",
            "version": "1.0.0",
            "description": "fedperfit run",
            "license": "Apache-2.0",
        }
        (bundle / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flower}}}))
        federation = {
            "num-supernodes": nodes,
            "client-resources-num-cpus": partitions.cpus_per_client,
            "client-resources-num-gpus": float(partitions.per_client),
        }
        if not self._cluster:
            # A cluster's nodes define its resources.
            federation |= {"init-args-num-cpus": partitions.cpus, "init-args-num-gpus": int(partitions.gpus)}
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in federation.items())
        return self._start(["flwr", "run", str(bundle), "local", "--stream", "--federation-config", settings])

    def _wait(self, link: subprocess.Popen[bytes], stream: subprocess.Popen[bytes], tick: Callable[[], None]) -> None:
        """Wait for the log stream to end; its exit status is 0 even if the app raised, so only the record counts."""
        simulation: psutil.Process | None = None
        gone = 0.0
        slow = time.monotonic() + _PATIENCE_S
        while stream.poll() is None:
            self._processes.reap()
            if slow and time.monotonic() > slow:
                slow = 0.0
                self._say_what_is_awaited(simulation)
            if link.poll() is not None:
                raise RunFailed(f"Flower's SuperLink ended with status {link.returncode}; see {self._log}")
            simulation = simulation or find_simulation()
            if simulation is not None and not is_alive(simulation):
                # A normal end closes the stream soon after; a crash never does.
                gone = gone or time.monotonic()
                if time.monotonic() - gone > _GRACE_S:
                    return
            tick()
            time.sleep(0.2)
        tick()

    def _say_what_is_awaited(self, simulation: psutil.Process | None) -> None:
        """Write a note if no client has answered yet."""
        events = self._log.with_name("events.jsonl")
        if events.is_file() and '"event": "phase"' in events.read_text(encoding="utf-8"):
            return
        awaited = "Ray and the clients" if simulation else "Flower to start the simulation"
        text = f"still waiting for {awaited} after {_PATIENCE_S:.0f} s; {self._log} has their messages"
        append_line(events, {"event": "note", "text": text})

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._processes.started.append(process)
        return process


def _is_healthy(link: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _HEALTH_S
    while time.monotonic() < deadline and link.poll() is None:
        try:
            with _DIRECT.open(f"http://127.0.0.1:{port}/health", timeout=1):
                return link.poll() is None
        except OSError:
            time.sleep(0.05)
    return False
