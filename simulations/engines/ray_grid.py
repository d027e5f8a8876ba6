"""A Flower Grid whose clients run in Ray actors: a worker that dies is replaced, and replies need no polling."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import ray
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.simulation.ray_transport.ray_actor import pool_size_from_resources

from simulations.engines.grid import LocalGrid, failure, message_of
from simulations.engines.ray_worker import Worker

_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_START_S = 300.0
"""Seconds without a worker after which the run's process gives up."""
_WAIT_S = 1.0


class RayGrid(LocalGrid):
    """Hands messages to workers in the order sent, one at a time per worker.

    One thread per worker waits for it. A worker gets a message only once it has started; if it dies at work, that
    message's reply is an error, and the worker is replaced. If its node is gone for good, the new one waits for free
    resources while the others work.
    """

    def __init__(
        self,
        num_nodes: int,
        run_config: dict[str, str],
        resources: dict[str, float],
        connect: Callable[[], None],
        give_up: Callable[[str], NoReturn],
    ) -> None:
        """Start Ray in the background, so that the server is imported meanwhile.

        Args:
            num_nodes: Number of clients.
            run_config: Flower's run config.
            resources: `num_cpus` and `num_gpus` of each worker.
            connect: Starts Ray or joins a cluster.
            give_up: Called, with the reason, if there will be no workers; the record is left as it is.
        """
        super().__init__(num_nodes)
        self._run_config = run_config
        self._resources = resources
        self._worker: Any = Worker.options(**resources)  # type: ignore[attr-defined]
        self._connect = connect
        self._give_up = give_up
        self._inbox: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._changed = threading.Condition()
        self._workers = 0
        self._none_since = time.monotonic()
        self._not_started = ""
        threading.Thread(target=self._start, daemon=True).start()

    def deliver(self, message_id: str, message: bytes) -> None:
        """Queue a message."""
        self._inbox.put((message_id, message))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, after waiting a moment if there are none."""
        wanted = list(message_ids)
        with self._changed:
            self._changed.wait_for(lambda: not self._replies.keys().isdisjoint(wanted), _WAIT_S)
            if self._not_started:
                self._give_up(self._not_started)
            if not self._workers and time.monotonic() - self._none_since > _START_S:
                self._give_up(f"no worker process has started in {_START_S:.0f} s")
            return [self._replies.pop(message_id) for message_id in wanted if message_id in self._replies]

    def _start(self) -> None:
        try:
            self._connect()
            workers = pool_size_from_resources({**self._resources})
        except Exception as error:
            traceback.print_exc()
            self._not_started = f"Ray could not be started: {error}"
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
            while message := self._next_message(worker):
                if not self._is_answered(worker, *message):
                    break
            self._count(-1)
            # It may only be unreachable, and would then keep its partition.
            _kill(worker)

    def _new_worker(self) -> Any:
        pause, said = _PAUSE_S, ""
        while True:
            worker = None
            try:
                worker = self._worker.remote(self._num_nodes, self._run_config)
                ray.get(worker.__ray_ready__.remote())
                return worker
            except Exception as error:
                if str(error) != said:
                    print(f"a worker did not start: {error}", file=sys.stderr, flush=True)
                said = str(error)
                _kill(worker)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _next_message(self, worker: Any) -> tuple[str, bytes] | None:
        """Wait for a message; None if the worker died while it had nothing to do, which costs no client an attempt."""
        message = None
        while message is None:
            try:
                return self._inbox.get_nowait()
            except Empty:
                pass
            try:
                message = self._inbox.get(timeout=_PAUSE_S)
            except Empty:
                message = None
            try:
                ray.get(worker.__ray_ready__.remote())
            except Exception:
                if message:
                    self._inbox.put(message)
                return None
        return message

    def _is_answered(self, worker: Any, message_id: str, message: bytes) -> bool:
        """Have a worker answer a message; False if it died, which becomes the reply."""
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

    def _count(self, change: int) -> None:
        with self._changed:
            self._workers += change
            self._none_since = time.monotonic()


def _kill(worker: Any) -> None:
    try:
        ray.kill(worker)
    except Exception:
        return  # it never existed, or Ray has ended
