"""Exchanges messages with many clients: sends tasks, collects replies, retries failures, records every byte.

A client that fails is retried a limited number of times. The ledger has one message down and one up for every task that
a client completed or failed for good: an attempt that died with its worker process is a fault of the simulation, not
traffic of the method.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import cast

import httpx
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from configs.errors import RunFailed
from fl_server.record.ledger import Ledger
from fl_server.record.reply import ClientReply, MessageSize, last_line
from strategies.wire import TRAINING, Payload, Phase, RollCallAnswer, pack, unpack

_POLL_S = 0.05
_AWAY_PAUSE_S = 5.0
"""Seconds before a device that was not connected is retried."""
_WINDOW = 64
"""Maximum number of tasks in progress; with replies that hold tensors and wait for earlier ones: bounds memory."""

_MESSAGE_TYPES: dict[Phase, str] = {
    Phase.TRAIN: "train",
    Phase.EVALUATE: "evaluate",
    **{phase: f"train.{phase}" for phase in (Phase.INTRODUCE, Phase.PERSONALIZE)},
    **{phase: f"query.{phase}" for phase in (Phase.ROLL_CALL, Phase.KEYS, Phase.SHARES, Phase.UNMASK)},
}


def _no_values(_user: int) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class ClientTask:
    """A task for clients."""

    round: int
    """0 before the first round of stage 1."""
    phase: Phase
    payload_for: Callable[[int, bool], Payload] | None = None
    """Returns the tensors for a user, and on a retry (True) without relying on what it has kept; None sends none."""
    values_for: Callable[[int], Mapping[str, object]] = _no_values
    """Returns the plain values for a user."""
    about: str = ""
    """What is special about it, for the progress display."""


@dataclass
class _Pending:
    """One client's task in progress."""

    node: int
    sent: MessageSize = field(default_factory=MessageSize)
    attempts: list[str] = field(default_factory=list)
    first_sent: float = 0.0
    """When it was first sent."""
    retry_at: float = 0.0
    """When it may be sent again; 0 means at once."""


class Clients:
    """The clients of a run, reached by partition id."""

    def __init__(
        self,
        grid: Grid,
        ledger: Ledger,
        retries: int = 0,
        on_retry: Callable[[int, Phase, int, int, str], None] = lambda *_: None,
        patience_s: float | None = None,
    ) -> None:
        """Set up the exchange; `call_roll` finds the clients.

        Args:
            grid: Flower's grid.
            ledger: Records every message.
            retries: How often a failed client is retried.
            on_retry: Called before a retry with round, phase, user, number of failed attempts, and the traceback.
            patience_s: For real devices, the maximum time for one task and the maximum time to wait for a device that
                is not connected; None for simulated clients, which are always connected.
        """
        self._grid = grid
        self._ledger = ledger
        self._retries = retries
        self._on_retry = on_retry
        self._patience_s = patience_s
        self._nodes: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._items: dict[int, int] = {}

    def call_roll(
        self,
        expected: int,
        record: bool = True,
        timeout: float = 300.0,
        registered: Mapping[int, int] | None = None,
    ) -> dict[int, RollCallAnswer]:
        """Wait for all nodes to connect, and ask every node which user it holds.

        Flower registers nodes while the server is already running, and node ids are random: without the roll call,
        round 1 would draw from the nodes that connect first.

        Args:
            expected: Number of clients.
            record: Record the messages in the ledger; a resumed run already has them.
            timeout: Seconds to wait for all clients to connect.
            registered: The partition that belongs to each node's key, by node id; if given, no node may hold another.

        Returns:
            The answers by partition id.

        Raises:
            RunFailed: A client did not answer, an answer is invalid, two clients hold the same partition, or one holds
                a partition that is not its key's.
        """
        deadline = time.monotonic() + timeout
        while len(nodes := list(self._grid.get_node_ids())) < expected:
            if time.monotonic() > deadline:
                raise RunFailed(f"roll call: {len(nodes)} of {expected} clients connected within {timeout:.0f} s")
            time.sleep(_POLL_S)
        self._users = dict.fromkeys(nodes, -1)
        answers: dict[int, RollCallAnswer] = {}
        for pending, message in self._exchange(ClientTask(0, Phase.ROLL_CALL), nodes, ()):
            answer = _roll_call_answer(pending, message)
            if answer.partition in answers:
                raise RunFailed(f"roll call: two clients hold partition {answer.partition}")
            if registered and (with_key := registered.get(pending.node)) != answer.partition:
                unknown = "whose key run.sh did not register"
                whose = unknown if with_key is None else f"with the key of partition {with_key}"
                raise RunFailed(f"roll call: a device {whose} says that it holds partition {answer.partition}")
            answers[answer.partition] = answer
            self._nodes[answer.partition], self._users[pending.node] = pending.node, answer.partition
            self._items[pending.node] = answer.history + answer.queries
            if record:
                up = MessageSize.of(cast(Message, message))
                reply = ClientReply(answer.partition, {}, None, {}, down=pending.sent, up=up)
                self.record_message(0, Phase.ROLL_CALL, reply)
        if sorted(answers) != list(range(expected)):
            raise RunFailed(f"roll call: expected partitions 0 to {expected - 1}, {len(answers)} clients answered")
        return answers

    def ask(
        self, task: ClientTask, users: Iterable[int], on_reply: Callable[[ClientReply], None] = lambda _reply: None
    ) -> Iterator[ClientReply]:
        """Send one task to each of `users` and yield the replies in the order of `users`.

        A reply is yielded as soon as all earlier ones have arrived. Folding replies in this order needs little memory
        and gives the same sums whatever the order in which clients reply. The caller records the messages
        (`record_message`). Where replies hold no tensors, so that many may wait for an earlier one, users with many
        items get the task first, so that no long task is left running alone at the end.

        Args:
            task: The task.
            users: Partition ids.
            on_reply: Called with each reply as it arrives.
        """
        order = [self._nodes[user] for user in users]
        arrived: dict[int, ClientReply] = {}
        nodes = iter(order)
        next_node = next(nodes, None)
        if task.phase in TRAINING:
            exchange = self._exchange(task, order, arrived)
        else:
            exchange = self._exchange(task, sorted(order, key=self._items.__getitem__, reverse=True), ())
        for pending, message in exchange:
            arrived[pending.node] = reply = self._reply(pending, message, task.phase)
            on_reply(reply)
            while next_node in arrived:
                yield arrived.pop(next_node)
                next_node = next(nodes, None)

    def record_message(self, round_number: int, phase: Phase, reply: ClientReply, arrived: bool = True) -> None:
        """Record the two messages of a client's task in the ledger, without the reply if it never arrived."""
        self._ledger.record(round_number, phase, "down", reply.user, reply.down)
        if arrived:
            self._ledger.record(round_number, phase, "up", reply.user, reply.up)

    def _exchange(self, task: ClientTask, nodes: list[int], arrived: Sized) -> Iterator[tuple[_Pending, Message | str]]:
        """Send a task to nodes, retry failures, and yield the final message of every node as it arrives.

        A message that cannot be decoded is yielded as the reason. `arrived` holds replies that wait for earlier ones;
        they count towards the window.
        """
        waiting = [_Pending(node) for node in reversed(nodes)]
        away: list[_Pending] = []
        under_way: dict[str, _Pending] = {}
        while waiting or under_way or away:
            now = time.monotonic()
            waiting += [pending for pending in away if pending.retry_at <= now]
            away = [pending for pending in away if pending.retry_at > now]
            # Retries ignore the window: they were counted when first sent, and other replies may wait for them.
            while waiting and (waiting[-1].first_sent or len(under_way) + len(arrived) < _WINDOW):
                pending = waiting.pop()
                under_way[self._send(task, pending)] = pending
            messages = list(self._pull(list(under_way)))
            for message_id, message in messages:
                pending = under_way.pop(message_id)
                if isinstance(message, str):
                    yield pending, message
                elif self._is_away(pending, message):
                    pending.retry_at = time.monotonic() + _AWAY_PAUSE_S
                    away.append(pending)
                elif self._may_retry(task, pending, message):
                    waiting.append(pending)
                else:
                    yield pending, message
            if not messages:
                time.sleep(_POLL_S)

    def _pull(self, message_ids: list[str]) -> Iterator[tuple[str, Message | str]]:
        """Yield the replies that have arrived, by the ids of the messages they answer.

        Flower decodes the messages of a request together, and if one cannot be decoded, all are lost. So the replies of
        real devices are requested one by one.
        """
        if self._patience_s is None:
            for message in self._grid.pull_messages(message_ids):
                yield str(message.metadata.reply_to_message_id), message
            return
        for message_id in message_ids:
            try:
                for message in self._grid.pull_messages([message_id]):
                    yield message_id, message
            except (httpx.HTTPError, ConnectionError):
                raise  # the server's own connection, not the message
            except Exception as error:
                yield message_id, f"cannot be decoded: {type(error).__name__}: {error}"

    def _send(self, task: ClientTask, pending: _Pending) -> str:
        """Send a task to one node and return the message's id."""
        user = self._users[pending.node]
        pending.first_sent = pending.first_sent or time.monotonic()
        # New content every time, because Flower binds content to its message.
        payload = task.payload_for(user, bool(pending.attempts)) if task.payload_for else None
        content = pack(payload, {"round": task.round, **task.values_for(user)})
        kind = _MESSAGE_TYPES[task.phase]
        message = Message(content, dst_node_id=pending.node, message_type=kind, ttl=self._patience_s)
        (message_id,) = self._grid.push_messages([message])
        pending.sent = MessageSize.of(message)
        return str(message_id)

    def _is_away(self, pending: _Pending, message: Message) -> bool:
        """Tell whether a device was not connected but still may connect; this is not a failure."""
        gone = message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE
        patience = self._patience_s
        return gone and patience is not None and time.monotonic() - pending.first_sent < patience

    def _may_retry(self, task: ClientTask, pending: _Pending, message: Message) -> bool:
        """Note a failed attempt and tell whether another one is allowed."""
        if not message.has_error():
            return False
        # Colours and anything else that would command the operator's terminal.
        reason = re.sub(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", str(message.error.reason))
        if message.error.code == ErrorCode.UNKNOWN:
            reason = f"the worker process ended (killed, out of memory, or over faults.client_seconds): {reason}"
        pending.attempts.append(f"(code {message.error.code}) {reason}")
        if len(pending.attempts) > self._retries:
            return False
        user = self._users[pending.node]
        self._on_retry(task.round, task.phase, user, len(pending.attempts), pending.attempts[-1])
        return True

    def _reply(self, pending: _Pending, message: Message | str, phase: Phase) -> ClientReply:
        user, attempts = self._users[pending.node], tuple(pending.attempts)
        if isinstance(message, str):
            return ClientReply(user, {}, None, {}, message, None, attempts, pending.sent)
        try:
            down, up = pending.sent, MessageSize.of(message)
            if message.has_error():
                return ClientReply(user, {}, None, {}, None, attempts[-1], attempts, down, up)
            return ClientReply.read(user, message.content, attempts, down, up, phase not in TRAINING)
        except Exception as error:  # whatever a client sent costs that client's reply only
            fault = f"cannot be read: {type(error).__name__}: {error}"
            return ClientReply(user, {}, None, {}, fault, None, attempts, pending.sent)


def _roll_call_answer(pending: _Pending, message: Message | str) -> RollCallAnswer:
    """Return a client's answer to the roll call.

    Raises:
        RunFailed: It failed, or its answer cannot be read.
    """
    if isinstance(message, str):
        raise RunFailed(f"roll call: a client's answer {message}")
    if message.has_error():
        raise RunFailed(f"roll call: a client failed: {last_line(pending.attempts[-1])}")
    try:
        return RollCallAnswer.from_record(unpack(message.content)[1])
    except ValueError as error:
        raise RunFailed(f"roll call: a client's answer cannot be read: {error}") from None
