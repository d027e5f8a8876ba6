"""A Flower Grid in this process: the same two apps, one client at a time, without Ray."""

from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.clientapp import ClientApp

from simulations.engines.grid import LocalGrid, answer


class InlineGrid(LocalGrid):
    """Runs a client when its reply is pulled."""

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: dict[str, str],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Create `num_nodes` nodes with one partition each; `tick` is called at every pull."""
        super().__init__(num_nodes)
        self._app = client_app
        self._run_config = run_config
        self._tick = tick
        self._inbox: dict[str, bytes] = {}

    def deliver(self, message_id: str, message: bytes) -> None:
        """Keep a message until its reply is pulled."""
        self._inbox[message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the client of the first pending message and return its reply."""
        self._tick()
        for message_id in message_ids:
            if message_id in self._inbox:
                data = self._inbox.pop(message_id)
                return [self.received(answer(self._app, data, self._num_nodes, self._run_config))]
        return []
