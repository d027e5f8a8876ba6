"""One exchange with many clients: messages out, replies in as they come, every byte entered, nothing lost."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from configs.errors import RunFailed
from fl_server.ledger import Direction, Ledger, Phase
from strategies.method import Tensors
from strategies.wire import SHARED, array_bytes, message_bytes, pack, take_numbers, unpack

_POLL_S = 0.05
_WINDOW = 64
"""Messages out, or in and waiting for their turn, at a time: bounds what the driver holds."""

_MESSAGE_TYPES: dict[Phase, str] = {
    "rollcall": "query.rollcall",
    "train": "train",
    "personalize": "train.personalize",
    "evaluate": "evaluate",
}


@dataclass(frozen=True)
class ClientReply:
    """One client's answer."""

    user: int
    shared: Tensors
    values: dict[str, Any]
    numbers: dict[str, list[float]]
    error: str | None
    """The client's traceback where it failed; everything else is empty then."""


class Clients:
    """The clients of a run, reached by partition id."""

    def __init__(self, grid: Grid, ledger: Ledger) -> None:
        """Use `grid` and enter every message into `ledger`; `call_roll` finds out who is there."""
        self._grid = grid
        self._ledger = ledger
        self._nodes: dict[int, int] = {}
        self._users: dict[int, int] = {}

    def call_roll(self, expected: int, timeout: float = 300.0) -> dict[int, dict[str, Any]]:
        """Wait for every node, and ask each who it is.

        Flower registers nodes while the server already runs, and node ids are random: without this, round 1
        would draw from whoever happens to be there.

        Returns:
            The answers by partition id.

        Raises:
            RunFailed: Not everybody answered, or two nodes hold one partition.
        """
        deadline = time.monotonic() + timeout
        while len(nodes := list(self._grid.get_node_ids())) < expected:
            if time.monotonic() > deadline:
                raise RunFailed(f"roll call: {len(nodes)} of {expected} clients connected within {timeout:.0f} s")
            time.sleep(_POLL_S)
        self._users = dict.fromkeys(nodes, -1)
        answers: dict[int, dict[str, Any]] = {}

        def note(node: int, reply: ClientReply) -> None:
            if reply.error:
                raise RunFailed(f"roll call: a client failed: {reply.error}")
            partition = int(reply.values["partition"])
            if partition in answers:
                raise RunFailed(f"roll call: two clients hold partition {partition}")
            answers[partition] = reply.values
            self._nodes[partition], self._users[node] = node, partition

        self._exchange(0, "rollcall", nodes, None, note, {}, {})
        if sorted(answers) != list(range(expected)):
            raise RunFailed(f"roll call: partitions 0 to {expected - 1} expected, {len(answers)} clients answered")
        return answers

    def ask(
        self,
        round_number: int,
        phase: Phase,
        users: Iterable[int],
        send: Callable[[int], Tensors] | None,
        take: Callable[[ClientReply], None],
        **values: Any,
    ) -> None:
        """Send one task to each of `users` and hand over the replies in the order of `users`.

        A reply is handed over as soon as all before it are in, so folding replies in this order needs little
        memory and gives the same sums whatever order clients answer in.

        Args:
            round_number: 0 before stage 1's first round.
            phase: The task.
            users: Partition ids.
            send: Gives the tensors for one user; None sends none.
            take: Called once per user.
            values: Plain values of the task.
        """
        order = [self._nodes[user] for user in users]
        waiting: dict[int, ClientReply] = {}
        turn = iter(order)
        due = next(turn, None)

        def hand_over(node: int, reply: ClientReply) -> None:
            nonlocal due
            waiting[node] = reply
            while due is not None and due in waiting:
                take(waiting.pop(due))
                due = next(turn, None)

        self._exchange(round_number, phase, order, send, hand_over, waiting, values)

    def _exchange(
        self,
        round_number: int,
        phase: Phase,
        nodes: list[int],
        send: Callable[[int], Tensors] | None,
        note: Callable[[int, ClientReply], None],
        waiting: Mapping[int, ClientReply],
        values: Mapping[str, Any],
    ) -> None:
        todo = list(reversed(nodes))
        pending: dict[str, int] = {}
        unnamed: dict[int, Message] = {}
        while todo or pending:
            while todo and len(pending) + len(waiting) < _WINDOW:
                node = todo.pop()
                # A fresh content each time: Flower ties a content to its message.
                shared = send(self._users[node]) if send else None
                content = pack(shared, {"round": round_number, **values})
                message = Message(content, dst_node_id=node, message_type=_MESSAGE_TYPES[phase])
                (message_id,) = self._grid.push_messages([message])
                pending[str(message_id)] = node
                # Entered once it has its id; in the roll call, once the client has said which partition it is.
                if phase == "rollcall":
                    unnamed[node] = message
                else:
                    self._enter(round_number, phase, "down", self._users[node], message)
            replies = list(self._grid.pull_messages(list(pending)))
            for reply in replies:
                node = pending.pop(str(reply.metadata.reply_to_message_id))
                answer = self._read(node, reply)
                user = int(answer.values.get("partition", -1)) if node in unnamed else answer.user
                if node in unnamed:
                    self._enter(round_number, phase, "down", user, unnamed.pop(node))
                self._enter(round_number, phase, "up", user, reply)
                note(node, answer)
            if not replies:
                time.sleep(_POLL_S)

    def _read(self, node: int, reply: Message) -> ClientReply:
        user = self._users[node]
        if reply.has_error():
            reason = re.sub(r"\x1b\[[0-9;]*m", "", str(reply.error.reason))
            return ClientReply(user, {}, {}, {}, f"(code {reply.error.code}) {reason}")
        shared, values = unpack(reply.content)
        return ClientReply(user, shared, values, take_numbers(reply.content), None)

    def _enter(self, round_number: int, phase: Phase, direction: Direction, user: int, message: Message) -> None:
        self._ledger.enter(round_number, phase, direction, user, SHARED, array_bytes(message), message_bytes(message))
