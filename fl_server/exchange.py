"""One exchange with many clients: messages out, replies in, every byte recorded, no reply lost.

A client that fails is retried a bounded number of times. The ledger has one message down and one up for every task that
a client did, or failed for good: an attempt that died with its worker process belongs to the simulation, not to the
method.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from configs.errors import RunFailed
from fl_server.record.ledger import Ledger
from fl_server.record.reply import ClientReply, MessageSize
from strategies.method import Tensors
from strategies.wire import SHARED, Phase, RollCallAnswer, pack, unpack

_POLL_S = 0.05
_AWAY_PAUSE_S = 5.0
"""Before a device that was not connected is asked again."""
_WINDOW = 64
"""Messages out, or in and waiting for their turn, at a time: bounds what the driver holds."""

_MESSAGE_TYPES: dict[Phase, str] = {
    Phase.ROLL_CALL: "query.rollcall",
    Phase.TRAIN: "train",
    Phase.PERSONALIZE: "train.personalize",
    Phase.EVALUATE: "evaluate",
}


def _no_values(_user: int) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class ClientTask:
    """What clients are asked to do."""

    round: int
    """0 before stage 1's first round."""
    phase: Phase
    payload_for: Callable[[int], Tensors] | None = None
    """Gives the tensors for a user; None sends none."""
    values_for: Callable[[int], Mapping[str, object]] = _no_values
    """Gives the plain values for a user."""


@dataclass
class _Pending:
    """One client's task under way."""

    node: int
    sent: MessageSize = field(default_factory=MessageSize)
    attempts: list[str] = field(default_factory=list)
    first_sent: float = 0.0
    """When it was sent first."""
    retry_at: float = 0.0
    """When it may be sent again; 0 if at once."""


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
        """Reach clients; `call_roll` finds out who they are.

        Args:
            grid: Flower's.
            ledger: Every message is recorded there.
            retries: How often a client that failed is asked again.
            on_retry: Called at once with round, phase, user, number of failed attempts, and the traceback.
            patience_s: On real devices, the longest time for one task, and the longest that a device may be away when
                it is asked; None: the clients are simulated and never away.
        """
        self._grid = grid
        self._ledger = ledger
        self._retries = retries
        self._on_retry = on_retry
        self._patience_s = patience_s
        self._nodes: dict[int, int] = {}
        self._users: dict[int, int] = {}

    def call_roll(self, expected: int, record: bool = True, timeout: float = 300.0) -> dict[int, RollCallAnswer]:
        """Wait for every node, and ask each which user it holds.

        Flower registers nodes while the server already runs, and node ids are random: without this, round 1 would draw
        from whichever nodes are there first.

        Args:
            expected: How many clients there are.
            record: Record the messages in the ledger; a resumed run has them already.
            timeout: Seconds to wait for all to connect.

        Returns:
            The answers by partition id.

        Raises:
            RunFailed: A client did not answer or answered nonsense, or two hold one partition.
        """
        deadline = time.monotonic() + timeout
        while len(nodes := list(self._grid.get_node_ids())) < expected:
            if time.monotonic() > deadline:
                raise RunFailed(f"roll call: {len(nodes)} of {expected} clients connected within {timeout:.0f} s")
            time.sleep(_POLL_S)
        self._users = dict.fromkeys(nodes, -1)
        answers: dict[int, RollCallAnswer] = {}
        for pending, message in self._exchange(ClientTask(0, Phase.ROLL_CALL), nodes, ()):
            if message.has_error():
                raise RunFailed(f"roll call: a client failed: {pending.attempts[-1]}")
            try:
                answer = RollCallAnswer.from_record(unpack(message.content)[1])
            except ValueError as error:
                raise RunFailed(f"roll call: a client's answer cannot be read: {error}") from None
            if answer.partition in answers:
                raise RunFailed(f"roll call: two clients hold partition {answer.partition}")
            answers[answer.partition] = answer
            self._nodes[answer.partition], self._users[pending.node] = pending.node, answer.partition
            if record:
                reply = ClientReply(answer.partition, {}, None, {}, down=pending.sent, up=MessageSize.of(message))
                self.record_message(0, Phase.ROLL_CALL, reply)
        if sorted(answers) != list(range(expected)):
            raise RunFailed(f"roll call: partitions 0 to {expected - 1} expected, {len(answers)} clients answered")
        return answers

    def ask(self, task: ClientTask, users: Iterable[int]) -> Iterator[ClientReply]:
        """Send one task to each of `users` and give the replies in the order of `users`.

        A reply is given as soon as all before it are in, so that folding replies in this order needs little memory and
        gives the same sums whatever order clients answer in. The caller records the messages (`record_message`).

        Args:
            task: What they are asked.
            users: Partition ids.
        """
        order = [self._nodes[user] for user in users]
        arrived: dict[int, ClientReply] = {}
        turns = iter(order)
        turn = next(turns, None)
        for pending, message in self._exchange(task, order, arrived):
            arrived[pending.node] = self._reply(pending, message)
            while turn in arrived:
                yield arrived.pop(turn)
                turn = next(turns, None)

    def record_message(self, round_number: int, phase: Phase, reply: ClientReply, arrived: bool = True) -> None:
        """Record the two messages of a client's task in the ledger; a reply that never arrived is left out."""
        self._ledger.record(round_number, phase, "down", reply.user, SHARED, reply.down)
        if arrived:
            self._ledger.record(round_number, phase, "up", reply.user, SHARED, reply.up)

    def _exchange(self, task: ClientTask, nodes: list[int], arrived: Sized) -> Iterator[tuple[_Pending, Message]]:
        """Send a task to nodes, retry failures, and give the final message of each as it comes.

        `arrived` holds replies that wait for others; they count towards the window.
        """
        waiting = [_Pending(node) for node in reversed(nodes)]
        away: list[_Pending] = []
        under_way: dict[str, _Pending] = {}
        while waiting or under_way or away:
            now = time.monotonic()
            waiting += [each for each in away if each.retry_at <= now]
            away = [each for each in away if each.retry_at > now]
            # A retry was counted when it was sent first, and other replies may wait for it.
            while waiting and (waiting[-1].first_sent or len(under_way) + len(arrived) < _WINDOW):
                pending = waiting.pop()
                under_way[self._send(task, pending)] = pending
            messages = list(self._grid.pull_messages(list(under_way)))
            for message in messages:
                pending = under_way.pop(str(message.metadata.reply_to_message_id))
                if self._is_away(pending, message):
                    pending.retry_at = time.monotonic() + _AWAY_PAUSE_S
                    away.append(pending)
                elif self._may_retry(task, pending, message):
                    waiting.append(pending)
                else:
                    yield pending, message
            if not messages:
                time.sleep(_POLL_S)

    def _send(self, task: ClientTask, pending: _Pending) -> str:
        """Send a task to one node and return the message's id."""
        user = self._users[pending.node]
        pending.first_sent = pending.first_sent or time.monotonic()
        # A fresh content each time: Flower ties a content to its message.
        shared = task.payload_for(user) if task.payload_for else None
        content = pack(shared, {"round": task.round, **task.values_for(user)})
        kind = _MESSAGE_TYPES[task.phase]
        message = Message(content, dst_node_id=pending.node, message_type=kind, ttl=self._patience_s)
        (message_id,) = self._grid.push_messages([message])
        pending.sent = MessageSize.of(message)
        return str(message_id)

    def _is_away(self, pending: _Pending, message: Message) -> bool:
        """Tell whether a device was not connected and may yet be: it has not failed then."""
        gone = message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE
        patience = self._patience_s
        return gone and patience is not None and time.monotonic() - pending.first_sent < patience

    def _may_retry(self, task: ClientTask, pending: _Pending, message: Message) -> bool:
        """Note a failed attempt; tell whether another is allowed."""
        if not message.has_error():
            return False
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(message.error.reason))
        if message.error.code == ErrorCode.UNKNOWN:
            reason = f"the worker process ended (killed, out of memory, or over faults.client_seconds): {reason}"
        pending.attempts.append(f"(code {message.error.code}) {reason}")
        if len(pending.attempts) > self._retries:
            return False
        user = self._users[pending.node]
        self._on_retry(task.round, task.phase, user, len(pending.attempts), pending.attempts[-1])
        return True

    def _reply(self, pending: _Pending, message: Message) -> ClientReply:
        user, attempts = self._users[pending.node], tuple(pending.attempts)
        down, up = pending.sent, MessageSize.of(message)
        if message.has_error():
            return ClientReply(user, {}, None, {}, None, attempts[-1], attempts, down, up)
        return ClientReply.read(user, message.content, attempts, down, up)
