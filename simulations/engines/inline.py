"""A Flower Grid in this process: the same two apps, without Ray; clients run one at a time, or several side by side."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from fl_clients.paused import Task
from fl_clients.session import open_session
from fl_clients.side_by_side import run_together
from simulations.engines.grid import LocalGrid, answer


class InlineGrid(LocalGrid):
    """Runs clients when replies are pulled."""

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: dict[str, str],
        tick: Callable[[], None] = lambda: None,
        clients_per_pass: int = 1,
    ) -> None:
        """Create `num_nodes` nodes with one partition each.

        Args:
            client_app: The clients' app.
            num_nodes: Number of nodes.
            run_config: Flower's run config.
            tick: Called at every pull.
            clients_per_pass: How many clients run at a pull; more than one run side by side.
        """
        super().__init__(num_nodes)
        self._app = client_app
        self._run_config = run_config
        self._tick = tick
        self._clients = clients_per_pass
        self._inbox: dict[str, bytes] = {}

    def deliver(self, message_id: str, message: bytes) -> None:
        """Keep a message until its reply is pulled."""
        self._inbox[message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the clients of the first pending messages and return their replies."""
        self._tick()
        pending = (self._inbox.pop(message_id) for message_id in message_ids if message_id in self._inbox)
        tasks: list[Task] = [
            partial(answer, self._app, data, self._num_nodes, self._run_config)
            for data in islice(pending, self._clients)
        ]
        return [self.received(reply) for reply in self._replies(tasks)]

    def _replies(self, tasks: list[Task]) -> list[bytes]:
        if self._clients == 1 or not tasks:
            return [task() for task in tasks]
        try:
            session = open_session(Path(self._run_config["run-dir"]))
        except Exception:  # every client's own attempt fails too, and its reply says why
            return [task() for task in tasks]
        return run_together(session, tasks)
