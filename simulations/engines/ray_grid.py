"""A Flower Grid whose clients run in Ray actors: a worker that dies is replaced, and replies need no polling."""

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

import ray
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.simulation.ray_transport.ray_actor import pool_size_from_resources
from ray.exceptions import RayError

from configs.errors import RunFailed
from simulations.engines.grid import LocalGrid, failure, message_of
from simulations.engines.ray_worker import Worker

_PAUSE_S = 2.0
_START_S = 300.0
"""Seconds without a worker after which the run fails."""
_WAIT_S = 1.0


class RayGrid(LocalGrid):
    """Hands messages to the workers in their order, one at a time each.

    One thread per worker waits for it. A worker gets a message only once it has started; if it dies, that message's
    reply is an error, and the worker is replaced. If its node is gone for good, the new one waits for free resources
    while the others work.
    """

    def __init__(
        self, num_nodes: int, run_config: dict[str, str], resources: dict[str, float], connect: Callable[[], None]
    ) -> None:
        """Start Ray in the background, so that the server is imported meanwhile.

        Args:
            num_nodes: Number of clients.
            run_config: Flower's run config.
            resources: `num_cpus` and `num_gpus` of each worker.
            connect: Starts Ray or joins a cluster.
        """
        super().__init__(num_nodes)
        self._run_config = run_config
        self._resources = resources
        self._worker: Any = Worker.options(**resources)  # type: ignore[attr-defined]
        self._connect = connect
        self._inbox: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._changed = threading.Condition()
        self._workers = 0
        self._idle_since = time.monotonic()
        self._failure, self._problem = "", "Ray gave no reason"
        threading.Thread(target=self._start, daemon=True).start()

    def deliver(self, message_id: str, message: bytes) -> None:
        """Queue a message."""
        self._inbox.put((message_id, message))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, after waiting a moment if there are none.

        Raises:
            RunFailed: Ray could not be started, or no worker has started in time.
        """
        wanted = list(message_ids)
        with self._changed:
            self._changed.wait_for(lambda: not self._replies.keys().isdisjoint(wanted), _WAIT_S)
            if self._failure:
                raise RunFailed(self._failure)
            if not self._workers and time.monotonic() - self._idle_since > _START_S:
                raise RunFailed(f"no worker process has started in {_START_S:.0f} s; {self._problem}")
            return [self._replies.pop(message_id) for message_id in wanted if message_id in self._replies]

    def _start(self) -> None:
        try:
            self._connect()
            workers = pool_size_from_resources({**self._resources})
        except Exception:
            self._failure = f"Ray could not be started: {traceback.format_exc()}"
            return
        for _ in range(workers - 1):
            threading.Thread(target=self._serve, daemon=True).start()
        # This thread must not end: the kernel would kill Ray's daemons, its children, with it.
        self._serve()

    def _serve(self) -> None:
        """Keep one worker running and busy."""
        while True:
            worker = self._new_worker()
            self._count(1)
            while self._is_answered_by(worker):
                pass
            self._count(-1)
            # It may only be unreachable, and would then keep its partition.
            ray.kill(worker)

    def _new_worker(self) -> Any:
        while True:
            worker = self._worker.remote(self._num_nodes, self._run_config)
            try:
                ray.get(worker.__ray_ready__.remote())
            except RayError as error:
                self._problem = str(error)
                time.sleep(_PAUSE_S)
            else:
                return worker

    def _is_answered_by(self, worker: Any) -> bool:
        """Have a worker answer the next message; False if it died, which becomes the reply."""
        message_id, message = self._inbox.get()
        died = False
        try:
            reply = self.received(ray.get(worker.answer.remote(message)))
        except Exception as error:  # whatever it is costs this worker, not its thread
            died = True
            reply = failure(message_of(message), ErrorCode.UNKNOWN, str(error))
            reply.metadata.__dict__["_message_id"] = self.new_id()
        with self._changed:
            self._replies[message_id] = reply
            self._changed.notify()
        return not died

    def _count(self, more: int) -> None:
        with self._changed:
            self._workers += more
            self._idle_since = time.monotonic()
