"""Target users: what they are sent, their part in an opening that needs them, and what they could be sent instead."""

from collections.abc import Callable
from dataclasses import replace

from fl_server.coding import ServerCoding
from fl_server.exchange import ClientTask
from fl_server.record.reply import ClientReply
from fl_server.user_tasks import UserTasks
from strategies.aggregation.robust import find_fault
from strategies.method import Method, Tensors
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import metrics, pool
from strategies.wire import Payload, Phase

_POINT = EvaluationPoint.COLLECTIVE
Send = Callable[[int, bool], Payload]
"""Returns the tensors for a user, as `ClientTask.payload_for`."""


class Newcomers:
    """The target users of one run."""

    def __init__(self, method: Method, coding: ServerCoding, tasks: UserTasks, targets: list[int]) -> None:
        """Bind to the run's method, codecs and tasks; `targets` are partition ids."""
        self._method, self._coding, self._tasks, self._targets = method, coding, tasks, targets

    def introduce(self, state: Tensors) -> Tensors:
        """Ask target users for their part in the opening, and return the state that knows them.

        Raises:
            RunFailed: A client failed, or sent something else.
        """
        aggregator = self._method.server_aggregator(state, 0)

        def checked(reply: ClientReply) -> ClientReply:
            # A user without history has no examples, and is served nevertheless.
            fault = find_fault(reply.shared, aggregator.expected, 1) if reply.report else None
            return replace(reply, shared={}, report=None, fault=fault) if fault else reply

        for reply in self._tasks.answers(ClientTask(0, Phase.INTRODUCE), self._targets, checked):
            if reply.report:
                aggregator.add(reply.user, reply.shared, reply.report.examples)
        return aggregator.result()[0]

    def send(self, state: Tensors, version: int) -> Send:
        """Return what newcomers are sent in a round: the same for all, unless they were introduced.

        Args:
            state: The server's tensors.
            version: The round in which they are sent.
        """
        self._coding.advance(version, state)
        if self._method.introduces:
            return lambda user, _again: self._coding.payload(state, user)
        payload = self._coding.payload(state, None)
        return lambda _user, _again: payload

    def controls(self, state: Tensors, number: int) -> dict[str, dict[str, float]]:
        """Evaluate what the target users could be sent instead, and return its metrics by control.

        Args:
            state: The server's tensors.
            number: The round after which they are sent.
        """
        by_control = {}
        # Half the list away, since neighbours in it may be alike (`users.select=apart`).
        half = len(self._targets) // 2
        others = dict(zip(self._targets, self._targets[half:] + self._targets[:half], strict=True)) if half else {}
        first = self._targets[0]
        for name in self._method.server_controls(state, first, others.get(first)):

            def send(user: int, _again: bool, name: str = name) -> Payload:
                return Payload(dict(self._method.server_controls(state, user, others.get(user))[name]()))

            task = ClientTask(number, Phase.EVALUATE, send, lambda _user: {"point": str(_POINT)}, about=f"with {name}")
            by_control[name] = metrics(pool(self._tasks.statistics(task, self._targets, [_POINT])[_POINT]))
        return by_control
