"""A Flower Grid in this process whose clients run side by side, their training steps in one pass."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from fl_clients.session import open_session
from fl_clients.side_by_side import run_together
from simulations.engines.grid import answer
from simulations.engines.inline import InlineGrid


class VectorizedGrid(InlineGrid):
    """Runs the clients of the first pending messages together when replies are pulled."""

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: dict[str, str],
        tick: Callable[[], None] = lambda: None,
        *,
        clients: int,
    ) -> None:
        """Create the nodes; `clients` run side by side."""
        super().__init__(client_app, num_nodes, run_config, tick)
        self._clients = clients

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the clients of the first pending messages and return their replies."""
        self._tick()
        chosen = [message_id for message_id in message_ids if message_id in self._inbox][: self._clients]
        tasks = [partial(answer, self._app, self._inbox.pop(one), self._num_nodes, self._run_config) for one in chosen]
        if not tasks:
            return []
        try:
            session = open_session(Path(self._run_config["run-dir"]))
        except Exception:
            # The client's own attempt fails too, and its reply says why.
            return [self.received(task()) for task in tasks]
        return [self.received(reply) for reply in run_together(session, tasks)]
