"""Tasks for users, recorded: events as replies come, their messages in the ledger, their rows in the tables."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import TypeVar

from configs.errors import RunFailed
from fl_server.exchange import Clients, ClientTask
from fl_server.record.reply import ClientReply
from fl_server.record.writer import RecordWriter
from fl_server.simulated_devices import DeviceModel
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import Statistics
from strategies.wire import Phase

Point = TypeVar("Point", bound=StrEnum)


class UserTasks:
    """Asks clients, and writes what they answer to the run record."""

    def __init__(
        self, clients: Clients, writer: RecordWriter, devices: DeviceModel, rounds: int, at_once: int | None
    ) -> None:
        """Bind to a run's clients, record and simulated devices.

        Args:
            clients: The clients.
            writer: The run record.
            devices: The simulated devices.
            rounds: Rounds of stage 1, for the progress display.
            at_once: How many clients run side by side, likewise; None: unknown.
        """
        self._clients, self._writer, self._devices = clients, writer, devices
        self._rounds, self._at_once = rounds, at_once

    def ask(self, task: ClientTask, users: list[int]) -> Iterator[ClientReply]:
        """Send a task to `users`, and write an event for every reply; the caller records the messages."""
        at_once = min(len(users), self._at_once) if self._at_once else None
        self._writer.event(
            "phase",
            phase=str(task.phase),
            round=task.round,
            rounds=self._rounds,
            total=len(users),
            at_once=at_once,
            about=task.about,
        )
        sent = sum(self._writer.ledger.so_far.values())

        def note(reply: ClientReply) -> None:
            nonlocal sent
            sent += reply.down.size + reply.up.size
            self._writer.event(
                "client",
                phase=str(task.phase),
                user=reply.user,
                failed=reply.error is not None,
                bytes=sent,
                seconds=reply.report.wall_s if reply.report else None,
            )

        yield from self._clients.ask(task, users, note)

    def statistics(self, task: ClientTask, users: list[int], points: Sequence[Point]) -> dict[Point, list[Statistics]]:
        """Send a task to users, record their replies, and return their statistics in the users' order.

        Raises:
            RunFailed: A client failed: every user's answers are needed.
        """
        collected: dict[Point, list[Statistics]] = {point: [] for point in points}
        sizes: dict[str, int] = {}
        evaluated = ", ".join(point for point in points if isinstance(point, EvaluationPoint))
        for reply in self.answers(task, users, lambda answer: answer.checked_against(sizes), evaluated):
            for point, of_point in collected.items():
                of_point.append(reply.statistics_at(point))
        return collected

    def recorded(
        self,
        task: ClientTask,
        users: Sequence[int],
        checked: Callable[[ClientReply], ClientReply] = lambda reply: reply,
    ) -> Iterator[ClientReply]:
        """Send a task to users, record their replies, and yield them in the users' order; some may have failed."""
        for answer in self.ask(task, list(users)):
            reply = checked(answer)
            self.record(task.round, task.phase, reply, f"rejected: {reply.fault}" if reply.fault else None)
            yield reply

    def record(
        self,
        number: int,
        phase: Phase,
        reply: ClientReply,
        rejection: str | None = None,
        *,
        arrived: bool = True,
        arrived_at_s: float | None = None,
    ) -> None:
        """Write a reply's messages to the ledger, and its row to the table of clients.

        Args:
            number: The round.
            phase: What was asked.
            reply: The reply.
            rejection: Why it is left out.
            arrived: False if a simulated device is gone or too late.
            arrived_at_s: Simulated seconds after the round's start.
        """
        self._clients.record_message(number, phase, reply, arrived=arrived)
        self._writer.client(number, phase, reply, rejection, self._devices.device(reply.user), arrived_at_s)

    def answers(
        self, task: ClientTask, users: list[int], checked: Callable[[ClientReply], ClientReply], about: str = ""
    ) -> Iterator[ClientReply]:
        """Send a task to users, record their replies, and yield them in the users' order.

        Args:
            task: The task.
            users: Partition ids.
            checked: Returns a reply, or one with a fault in its place.
            about: What the task is about, for an error.

        Raises:
            RunFailed: After the last reply, if a client failed: every user's answers are needed.
        """
        failed: list[int] = []
        causes: list[str] = []
        for reply in self.recorded(task, users, checked):
            if reply.report is None:
                failed.append(reply.user)
                causes.append(reply.cause or str(reply.fault))
            yield reply
        if failed:
            what = f"{task.phase} ({about})" if about else str(task.phase)
            raise RunFailed(
                f"{what}: {len(failed)} of {len(users)} clients failed ({causes[0]}); "
                f"their tracebacks are in {self._writer.folder / 'errors.jsonl'}"
            )
