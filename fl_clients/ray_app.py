"""The ClientApp as Ray runs it: a worker process that dies is replaced, and none works on one task for ever.

Flower 1.41 puts a dead actor back among the idle ones, where it fails whatever it is given from then on; and it gives a
simulation no more threads, so no more actors at work, than a few over the cores of its own machine. No setting reaches
either. Flower imports the ClientApp before it makes its pool, so this module can put what does better in their places.
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
from strategies.method import IMPORTING

with IMPORTING:
    from fl_clients.app import app

__all__ = ["app"]
_POLL_S = 2.0
_START_S = 300.0
"""So long no actor may be there and none at work before a task fails for it."""
_MOST_PARTITIONS = 1024


class ReplacingPool(ray_actor.BasicActorPool):
    """Flower's pool, except that an actor is given work only once it is there, and is replaced once it is gone.

    Where its node is gone for good, the new one waits for room, and the others do the work.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool; its actors come with `add_actors_to_pool`."""
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
        """Give a job to an idle actor, once there is one.

        Raises:
            TimeoutError: None is there, and none comes.
        """
        actor = self._idle()
        future = actor_fn(actor, *job)
        self._future_to_actor[future] = actor
        return future

    def fetch_result_and_return_actor_to_pool(self, future: Any) -> Any:
        """Wait for a job's result; what fails goes to `add_actor_back_to_pool`."""
        _, message, context = ray.get(future)
        self._ready.put(self._future_to_actor.pop(future))
        return message, context

    def add_actor_back_to_pool(self, future: Any) -> None:
        """Take an actor back whose job failed, or replace it if it is gone."""
        actor: Any = self._future_to_actor.pop(future)
        try:
            ray.get(future)
        except RayActorError:
            # It may be out of reach only, and would keep its partition.
            ray.kill(actor)
            self._start()
            return
        except Exception:
            pass  # The task's own, which Flower passes on; the actor is as good as before.
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


# To mypy a class is no variable, and what a module imports is not its own.
setattr(ray_actor, "BasicActorPool", ReplacingPool)  # noqa: B010
setattr(vce_api, "ThreadPoolExecutor", partial(ThreadPoolExecutor, max_workers=_MOST_PARTITIONS))  # noqa: B010


def _end_with_driver(driver: int) -> None:
    """End this process soon after the driver's: a driver that is killed can end nobody itself."""
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
    """Where there are several nodes, let partitions be told apart by them too."""
    if len(ray.nodes()) > 1:
        os.environ[NODE] = ray.get_runtime_context().get_node_id()[:8]
