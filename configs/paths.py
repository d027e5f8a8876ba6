"""The cache folder, the folders of run records, and the environment variables that a run's processes inherit."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from configs.errors import InputError

USERS_LINK = ".users"
"""The link to the user table in the record of a run in progress."""
DRIVER = "FEDPERFIT_DRIVER_PID"
"""Environment variable: process id of the command that runs a simulation; the run's processes end with it."""
NODE = "FEDPERFIT_NODE"
"""Environment variable of a client process: its node, if a cluster has several."""


def expand(path: Path | str) -> Path:
    """Return a path with `~` replaced; one of an unknown user, for which pathlib raises, stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def cache_dir() -> Path:
    """Return the cache folder: `$FEDPERFIT_CACHE`, else `fedperfit` in the user's cache folder."""
    if explicit := os.environ.get("FEDPERFIT_CACHE"):
        return expand(explicit).resolve()
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache").resolve() / "fedperfit"


def make_cache(*names: str) -> Path:
    """Create a folder in the cache, unless it is there, and return it.

    Raises:
        InputError: It cannot be written to.
    """
    folder = cache_dir().joinpath(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be written to ({error.strerror}); set FEDPERFIT_CACHE to one that can"
        ) from None


def run_dir(run_config: Mapping[str, object], run_id: int) -> Path:
    """Return the folder of a run's record, the same on the server and on every client.

    Args:
        run_config: Flower's run config: `run-dir` is the record; if it is empty, the record is in the folder `results`.
        run_id: Flower's run id.
    """
    return Path(str(run_config["run-dir"] or Path(str(run_config["results"])) / f"flower-{run_id}")).absolute()
