"""Where fedperfit keeps what can be made again, and the environment that a run's processes inherit."""

import os
from collections.abc import Mapping
from pathlib import Path

USERS_LINK = ".users"
"""In a record whose run goes on: the link to its user table."""
DRIVER = "FEDPERFIT_DRIVER_PID"
"""Environment variable with the process id of the command that runs a simulation: its processes end with it."""
NODE = "FEDPERFIT_NODE"
"""Environment variable of a client's process: the node it is on, where a cluster has several."""


def cache_dir() -> Path:
    """Return the cache folder: `$FEDPERFIT_CACHE`, else `fedperfit` under the user's cache folder."""
    if explicit := os.environ.get("FEDPERFIT_CACHE"):
        return Path(explicit).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().resolve() / "fedperfit"


def run_dir(run_config: Mapping[str, object], run_id: int) -> Path:
    """Return where a run's record is: the same answer on the server and on every client.

    Args:
        run_config: Flower's: `run-dir` names the record; where it is empty the record is in the folder `results`.
        run_id: Flower's.
    """
    return Path(str(run_config["run-dir"] or Path(str(run_config["results"])) / f"flower-{run_id}")).absolute()
