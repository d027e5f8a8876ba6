"""What the two engines share: a Flower Grid on this machine, and how a ClientApp answers a message there."""

import traceback
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import count

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# As wide as Flower's random ids, so that message sizes agree within a few bytes.
_RUN_ID = _FIRST_NODE = 1 << 62


class LocalGrid(Grid):
    """A Grid without SuperLink and SuperNodes: node n holds partition n, and messages travel as bytes.

    Flower's simulation runtime looks through all nodes and all messages for the next one to deliver, so each message
    costs more, the more nodes there are (docs/decisions/0030).
    """

    def __init__(self, num_nodes: int) -> None:
        """Create `num_nodes` nodes."""
        # Message() reads these, which only Flower's own processes set.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, SUPERLINK_NODE_ID
        self._num_nodes = num_nodes
        self._run = Run.create_empty(run_id=_RUN_ID)
        self._ids = count(1)

    @abstractmethod
    def deliver(self, message_id: str, message: bytes) -> None:
        """Send a message; `pull_messages` returns its reply."""

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
        return range(_FIRST_NODE, _FIRST_NODE + self._num_nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages and return their ids."""
        ids = []
        for message in messages:
            message_id = self.new_id()
            message.metadata.__dict__["_message_id"] = message_id
            self.deliver(message_id, message_to_proto(message).SerializeToString())
            ids.append(message_id)
        return ids

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return their replies."""
        waiting, replies = {*self.push_messages(messages)}, []
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def new_id(self) -> str:
        """Return a message id as long as Flower's."""
        return f"{next(self._ids):064x}"

    def received(self, reply: bytes) -> Message:
        """Read a client's reply and give it an id."""
        message = message_of(reply)
        message.metadata.__dict__["_message_id"] = self.new_id()
        return message


def message_of(data: bytes) -> Message:
    """Read a serialised message."""
    return message_from_proto(MessageProto.FromString(data))


def answer(app: ClientApp, data: bytes, num_nodes: int, run_config: Mapping[str, str]) -> bytes:
    """Have a ClientApp answer a message, as the node that it is for; an exception becomes an error message.

    Args:
        app: The ClientApp.
        data: The serialised message.
        num_nodes: Number of nodes.
        run_config: Flower's run config.

    Returns:
        The serialised reply.
    """
    message = message_of(data)
    node = message.metadata.dst_node_id
    partition: dict[str, bool | float | int | str] = {"partition-id": node - _FIRST_NODE, "num-partitions": num_nodes}
    try:
        reply = app(message=message, context=Context(_RUN_ID, node, partition, RecordDict(), dict(run_config)))
        return bytes(message_to_proto(reply).SerializeToString())
    except Exception as error:
        reason = "".join(traceback.format_exception(error))
        reply = failure(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
        return bytes(message_to_proto(reply).SerializeToString())


def failure(message: Message, code: int, reason: str) -> Message:
    """Return the reply to a message that could not be answered."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def run_server(server_app: ServerApp, grid: Grid, run_config: Mapping[str, str]) -> None:
    """Run a ServerApp to completion in this thread."""
    server_app(grid=grid, context=Context(_RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config)))
