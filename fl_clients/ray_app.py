"""The ClientApp as Ray runs it: a worker process that dies is replaced, and none works on one task for ever.

Flower 1.41 puts a dead actor back among the idle ones, where it fails whatever it is given from then on. Ray starts an
actor again if its class says so; Flower's does not, and no setting of Flower's reaches that option. Flower imports the
ClientApp before it makes actors, so this module can put a class that does in the place of Flower's.
"""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import psutil
import ray
from flwr.app import Context
from flwr.simulation.ray_transport import ray_actor

from configs.load import read_resolved
from configs.paths import DRIVER, run_dir
from fl_clients.app import app

__all__ = ["app"]
_POLL_S = 2.0


@ray.remote(max_restarts=-1)
class RestartedActor(ray_actor.VirtualClientEngineActor):
    """Flower's actor, started again by Ray when its process dies; the task under way fails."""


setattr(ray_actor, "ClientAppActor", RestartedActor)  # noqa: B010 (to mypy a class is no variable)


def _end_with_driver(driver: int) -> None:
    """End this process soon after the driver's: a driver that is killed can end nobody itself."""
    while psutil.pid_exists(driver):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


if DRIVER in os.environ:
    threading.Thread(target=_end_with_driver, args=(int(os.environ[DRIVER]),), daemon=True).start()


@app.lifespan()
def limited(context: Context) -> Iterator[None]:
    """End this process if one task exceeds `faults.client_seconds`: nothing less ends a hang in native code."""
    faulthandler.dump_traceback_later(_limit(run_dir(context.run_config, context.run_id)), exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@lru_cache(maxsize=1)
def _limit(folder: Path) -> float:
    return read_resolved(folder / "config.toml").faults.client_seconds
