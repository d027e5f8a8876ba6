"""A Flower Grid in this process: the same two apps, one client at a time, without Ray."""

import traceback
from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# As wide as Flower's random ids, so that message sizes agree within a few bytes.
_RUN_ID = _FIRST_NODE = 1 << 62


class InlineGrid(Grid):
    """Runs a client when its reply is pulled; messages are serialised, so that no object is shared by accident."""

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: dict[str, str],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Create `num_nodes` nodes with one partition each; `tick` is called at every pull."""
        self._tick = tick
        # Message() reads these, which only Flower's own processes set.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, SUPERLINK_NODE_ID
        self._app = client_app
        self._run = Run.create_empty(run_id=_RUN_ID)
        self._ids = count(1)
        self._inbox: dict[str, Message] = {}
        self._contexts = {
            _FIRST_NODE + partition: Context(
                run_id=_RUN_ID,
                node_id=_FIRST_NODE + partition,
                node_config={"partition-id": partition, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for partition in range(num_nodes)
        }

    def set_run(self, run: Run) -> None:
        """Set the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; older server code calls this."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids."""
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes."""
        return [NodeInfo(node_id=node) for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their replies are pulled."""
        ids = []
        for message in messages:
            message_id = f"{next(self._ids):064x}"
            message.metadata.__dict__["_message_id"] = message_id
            self._inbox[message_id] = message_from_proto(message_to_proto(message))
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the client of the first pending message and return its reply."""
        self._tick()
        for message_id in message_ids:
            if message_id in self._inbox:
                return [self._answer(self._inbox.pop(message_id))]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run all clients and return their replies."""
        return [reply for message_id in self.push_messages(messages) for reply in self.pull_messages([message_id])]

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            reply = self._app(message=message, context=context)
            reply.metadata.__dict__["_message_id"] = f"{next(self._ids):064x}"
            return message_from_proto(message_to_proto(reply))
        except Exception as error:
            reason = "".join(traceback.format_exception(error))
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)


def run_inline(
    server_app: ServerApp,
    client_app: ClientApp,
    num_nodes: int,
    run_config: dict[str, str],
    tick: Callable[[], None],
) -> None:
    """Run both apps to completion in this process."""
    grid = InlineGrid(client_app, num_nodes, run_config, tick)
    context = Context(
        run_id=_RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )
    server_app(grid=grid, context=context)
