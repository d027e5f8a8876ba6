"""A grid on Ray gives up if it gets no workers, and a worker that dies costs only the message that it had."""

import threading
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto

from configs.errors import RunFailed
from simulations.engines import ray_grid
from simulations.engines.grid import failure, message_of
from simulations.engines.ray_grid import RayGrid

ONE = {"num_cpus": 1.0}


def refuse() -> None:
    raise OSError("no room for Ray")


def give_up(reason: str) -> NoReturn:
    raise RunFailed(reason)


def pull(grid: RayGrid) -> None:
    for _ in range(20):
        grid.pull_messages(["1"])


def test_a_ray_that_cannot_start_ends_the_process() -> None:
    grid = RayGrid(1, {}, ONE, refuse, give_up)
    with pytest.raises(RunFailed, match="Ray could not be started: no room for Ray"):
        pull(grid)


def test_a_run_without_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_grid, "_START_S", 0.0)
    monkeypatch.setattr(ray_grid, "pool_size_from_resources", lambda _resources: 1)
    monkeypatch.setattr(RayGrid, "_serve", lambda _self: None)
    grid = RayGrid(1, {}, ONE, lambda: None, give_up)
    with pytest.raises(RunFailed, match="no worker process has started in 0 s"):
        grid.pull_messages(["1"])


class FakeWorkers:
    """Stands in for Ray: `alive` says which workers answer; a dead one raises."""

    def __init__(self) -> None:
        self.started: list[SimpleNamespace] = []
        self.over = False

    def remote(self, *_: Any) -> SimpleNamespace:
        worker = SimpleNamespace(alive=True, answered=0)
        worker.__ray_ready__ = SimpleNamespace(remote=lambda: (worker, None))
        worker.answer = SimpleNamespace(remote=lambda message: (worker, message))
        self.started.append(worker)
        return worker

    def get(self, call: tuple[SimpleNamespace, bytes | None]) -> bytes:
        if self.over:
            raise SystemExit  # ends the thread
        worker, message = call
        if not worker.alive:
            raise ConnectionError("the actor is dead")
        if message is None:
            return b""
        worker.answered += 1
        return bytes(message_to_proto(failure(message_of(message), 3, "answered")).SerializeToString())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # SystemExit ends the thread
def test_a_worker_that_died_idle_costs_no_client_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, before = FakeWorkers(), threading.enumerate()
    monkeypatch.setattr(ray_grid, "_PAUSE_S", 0.05)
    monkeypatch.setattr(ray_grid, "pool_size_from_resources", lambda _resources: 1)
    monkeypatch.setattr(ray_grid, "ray", SimpleNamespace(get=fake.get, kill=lambda _worker: None))
    monkeypatch.setattr(ray_grid, "Worker", SimpleNamespace(options=lambda **_: fake))
    grid = RayGrid(1, {}, ONE, lambda: None, give_up)
    (node,) = grid.get_node_ids()

    def ask() -> list[str]:
        (message_id,) = grid.push_messages([Message(RecordDict(), node, "train")])
        replies: list[Message] = []
        while not replies:
            replies = list(grid.pull_messages([message_id]))
        return [reply.error.reason for reply in replies]

    assert ask() == ["answered"]
    fake.started[0].alive = False
    assert ask() == ["answered"]
    assert [worker.answered for worker in fake.started] == [1, 1]
    fake.over = True
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(10)
