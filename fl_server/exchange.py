"""One exchange with many clients: messages out, replies in as they come, every byte entered, nothing lost.

A client that fails is asked again, a bounded number of times. The ledger has one message down and one up for every task
a client did, or failed for good: an attempt that died with its worker process is the simulation's, not the method's.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from configs.errors import RunFailed
from fl_server.ledger import Ledger, Phase
from strategies.method import Tensors
from strategies.wire import SHARED, array_bytes, message_bytes, pack, take_numbers, unpack

_POLL_S = 0.05
_AWAY_PAUSE_S = 5.0
"""Before a client is asked again whose device was not connected."""
_WINDOW = 64
"""Messages out, or in and waiting for their turn, at a time: bounds what the driver holds."""

_MESSAGE_TYPES: dict[Phase, str] = {
    "rollcall": "query.rollcall",
    "train": "train",
    "personalize": "train.personalize",
    "evaluate": "evaluate",
}


@dataclass(frozen=True)
class Weight:
    """What the ledger takes of a message."""

    size: int = 0
    """Bytes, serialised."""
    arrays: tuple[tuple[str, int, int, str], ...] = ()
    """Name, elements, bytes and dtype of each tensor."""

    @property
    def payload(self) -> int:
        """Bytes of the tensors."""
        return sum(size for _, _, size, _ in self.arrays)

    @staticmethod
    def of(message: Message) -> "Weight":
        """Weigh a message that has its id."""
        return Weight(message_bytes(message), tuple(array_bytes(message)))


@dataclass(frozen=True)
class ClientReply:
    """One client's answer."""

    user: int
    shared: Tensors
    values: dict[str, Any]
    numbers: dict[str, list[float]]
    error: str | None
    """The client's traceback where it failed for good; everything else is empty then."""
    attempts: tuple[str, ...] = ()
    """Tracebacks of all attempts that failed."""
    down: Weight = Weight()
    """The message to the client."""
    up: Weight = Weight()
    """The client's message."""


@dataclass
class _Asked:
    """One client's task under way."""

    node: int
    down: Weight = Weight()
    attempts: list[str] = field(default_factory=list)
    since: float = 0.0
    """When it was asked first."""
    due: float = 0.0
    """When it may be asked again."""


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
        """Reach clients; `call_roll` finds out who is there.

        Args:
            grid: Flower's.
            ledger: Every message is entered there.
            retries: How often a client that failed is asked again.
            on_retry: Told round, task, user, how many attempts have failed, and the traceback, at once.
            patience_s: On real devices, the longest time for one task, and the longest that one may be away when it is
                asked; None: the clients are simulated, and never away.
        """
        self._grid = grid
        self._ledger = ledger
        self._retries = retries
        self._on_retry = on_retry
        self._patience_s = patience_s
        self._nodes: dict[int, int] = {}
        self._users: dict[int, int] = {}

    def call_roll(self, expected: int, enter: bool = True, timeout: float = 300.0) -> dict[int, dict[str, Any]]:
        """Wait for every node, and ask each who it is.

        Flower registers nodes while the server already runs, and node ids are random: without this, round 1
        would draw from whoever happens to be there.

        Args:
            expected: How many clients there are.
            enter: Enter the messages into the ledger; a run that is taken up again has them already.
            timeout: Seconds to wait for all to connect.

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
            if enter:
                self.enter(0, "rollcall", replace(reply, user=partition))

        self._exchange(0, "rollcall", nodes, None, note, {}, lambda _user: {})
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
        values: Callable[[int], Mapping[str, Any]] = lambda _user: {},
    ) -> None:
        """Send one task to each of `users` and hand over the replies in the order of `users`; who takes one enters it.

        A reply is handed over as soon as all before it are in, so folding replies in this order needs little
        memory and gives the same sums whatever order clients answer in.

        Args:
            round_number: 0 before stage 1's first round.
            phase: The task.
            users: Partition ids.
            send: Gives the tensors for one user; None sends none.
            take: Called once per user.
            values: Gives the plain values of one user's task.
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

    def enter(self, round_number: int, phase: Phase, reply: ClientReply, arrived: bool = True) -> None:
        """Enter a client's messages into the ledger; a reply that never arrived is not in it."""
        record = (reply.user, SHARED)
        self._ledger.enter(round_number, phase, "down", *record, reply.down.arrays, reply.down.size)
        if arrived:
            self._ledger.enter(round_number, phase, "up", *record, reply.up.arrays, reply.up.size)

    def _exchange(
        self,
        round_number: int,
        phase: Phase,
        nodes: list[int],
        send: Callable[[int], Tensors] | None,
        note: Callable[[int, ClientReply], None],
        waiting: Mapping[int, object],
        values: Callable[[int], Mapping[str, Any]],
    ) -> None:
        todo = [_Asked(node) for node in reversed(nodes)]
        away: list[_Asked] = []
        pending: dict[str, _Asked] = {}
        while todo or pending or away:
            todo += (due := [asked for asked in away if asked.due <= time.monotonic()])
            away = [asked for asked in away if asked not in due]
            # Who is asked again was counted in when asked first, and others may wait for this one.
            while todo and (todo[-1].due or todo[-1].attempts or len(pending) + len(waiting) < _WINDOW):
                asked = todo.pop()
                asked.since = asked.since or time.monotonic()
                # A fresh content each time: Flower ties a content to its message.
                shared = send(self._users[asked.node]) if send else None
                content = pack(shared, {"round": round_number, **values(self._users[asked.node])})
                kind = _MESSAGE_TYPES[phase]
                message = Message(content, dst_node_id=asked.node, message_type=kind, ttl=self._patience_s)
                (message_id,) = self._grid.push_messages([message])
                pending[str(message_id)] = asked
                asked.down = Weight.of(message)
            replies = list(self._grid.pull_messages(list(pending)))
            for reply in replies:
                asked = pending.pop(str(reply.metadata.reply_to_message_id))
                if self._is_away(asked, reply):
                    asked.due = time.monotonic() + _AWAY_PAUSE_S
                    away.append(asked)
                    continue
                answer = self._read(asked, reply)
                if answer.error and len(asked.attempts) <= self._retries:
                    todo.append(asked)
                    self._on_retry(round_number, phase, answer.user, len(asked.attempts), answer.error)
                else:
                    note(asked.node, answer)
            if not replies:
                time.sleep(_POLL_S)

    def _is_away(self, asked: _Asked, reply: Message) -> bool:
        """Tell whether a device was not connected and may yet be: it has not failed then."""
        patience = self._patience_s
        gone = reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
        return gone and patience is not None and time.monotonic() - asked.since < patience

    def _read(self, asked: _Asked, reply: Message) -> ClientReply:
        user = self._users[asked.node]
        if reply.has_error():
            reason = re.sub(r"\x1b\[[0-9;]*m", "", str(reply.error.reason))
            if reply.error.code == ErrorCode.UNKNOWN:
                reason = f"the worker process ended (killed, out of memory, or over faults.client_seconds): {reason}"
            error = f"(code {reply.error.code}) {reason}"
            asked.attempts.append(error)
            return ClientReply(user, {}, {}, {}, error, tuple(asked.attempts), asked.down, Weight.of(reply))
        shared, values = unpack(reply.content)
        numbers = take_numbers(reply.content)
        return ClientReply(user, shared, values, numbers, None, tuple(asked.attempts), asked.down, Weight.of(reply))
