"""The ClientApp for Ray: a worker process that dies is replaced, and every task has a time limit.

Flower 1.41 returns a dead actor to its pool, where every later job on it fails. It also limits the threads of a
simulation, and so the number of busy actors, to a few more than the cores of its machine. No setting changes either.
Flower imports the ClientApp before it creates its pool, so this module can replace both.
"""

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import psutil
import ray
from flwr.app import Context
from flwr.server.superlink.fleet.vce import vce_api
from flwr.simulation.ray_transport import ray_actor
from ray.exceptions import RayActorError

from configs.load import read_resolved
from configs.paths import DRIVER, NODE, run_dir
from fl_clients.process.time_limit import limited_to
from strategies.loading import IMPORTING

with IMPORTING:
    from fl_clients.app import app

__all__ = ["app"]
_POLL_S = 2.0
_START_S = 300.0
"""Seconds without an idle or a busy actor after which a task fails."""
_MOST_PARTITIONS = 1024


class ReplacingPool(ray_actor.BasicActorPool):
    """Flower's pool, except that an actor gets work only once it has started, and is replaced if it dies.

    If its node is gone for good, the new actor waits for free resources while the others do the work.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool; `add_actors_to_pool` starts its actors."""
        super().__init__(*args, **kwargs)
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def add_actors_to_pool(self, num_actors: int) -> None:
        """Start actors."""
        for _ in range(num_actors):
            self._start()
        self.num_actors += num_actors

    def is_actor_available(self) -> bool:
        """Tell whether an actor is idle."""
        return not self._ready.empty()

    def submit(self, actor_fn: Any, job: tuple[Any, ...]) -> Any:
        """Submit a job to an idle actor, and wait for one if necessary.

        Raises:
            TimeoutError: No actor is busy, and none has become idle in time.
        """
        actor = self._idle()
        future = actor_fn(actor, *job)
        self._future_to_actor[future] = actor
        return future

    def fetch_result_and_return_actor_to_pool(self, future: Any) -> Any:
        """Wait for a job's result; if the job fails, Flower calls `add_actor_back_to_pool`."""
        _, message, context = ray.get(future)
        self._ready.put(self._future_to_actor.pop(future))
        return message, context

    def add_actor_back_to_pool(self, future: Any) -> None:
        """Return an actor to the pool after a failed job, or replace it if it has died."""
        actor: Any = self._future_to_actor.pop(future)
        try:
            ray.get(future)
        except RayActorError:
            # It may only be unreachable, and would then keep its partition.
            ray.kill(actor)
            self._start()
            return
        except Exception:
            pass  # The task raised it, and Flower reports it; the actor still works.
        self._ready.put(actor)

    def _idle(self) -> Any:
        missing_since = time.monotonic()
        while True:
            try:
                return self._ready.get(timeout=_POLL_S)
            except queue.Empty:
                if self._future_to_actor:
                    missing_since = time.monotonic()
                elif time.monotonic() - missing_since > _START_S:
                    raise TimeoutError(f"no worker process has started in {_START_S:.0f} s") from None

    def _start(self) -> None:
        def wait(actor: Any) -> None:
            while True:
                try:
                    ray.get(actor.__ray_ready__.remote())
                except RayActorError:
                    time.sleep(_POLL_S)
                    actor = self.create_actor_fn()
                else:
                    return self._ready.put(actor)

        threading.Thread(target=wait, args=(self.create_actor_fn(),), daemon=True).start()


# `setattr`, because mypy rejects assignments to a class and to a name that another module only imports.
setattr(ray_actor, "BasicActorPool", ReplacingPool)  # noqa: B010
setattr(vce_api, "ThreadPoolExecutor", partial(ThreadPoolExecutor, max_workers=_MOST_PARTITIONS))  # noqa: B010


def _end_with_driver(driver: int) -> None:
    """End this process soon after the driver's: a driver that is killed cannot stop its workers."""
    while psutil.pid_exists(driver):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


if DRIVER in os.environ:
    threading.Thread(target=_end_with_driver, args=(int(os.environ[DRIVER]),), daemon=True).start()


@app.lifespan()
def limited(context: Context) -> Iterator[None]:
    """End this process if one task exceeds `faults.client_seconds`."""
    _name_node()
    with limited_to(_limit(run_dir(context.run_config, context.run_id))):
        yield


@lru_cache(maxsize=1)
def _limit(folder: Path) -> float:
    return read_resolved(folder / "config.toml").faults.client_seconds


@lru_cache(maxsize=1)
def _name_node() -> None:
    """If there are several nodes, make this node's id part of the partition's name."""
    if len(ray.nodes()) > 1:
        os.environ[NODE] = ray.get_runtime_context().get_node_id()[:8]
