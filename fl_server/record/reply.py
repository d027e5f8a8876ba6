"""One client's answer to one task, as the server holds it."""

from dataclasses import dataclass, field, replace

from flwr.app import Message, RecordDict

from strategies.method import Tensors
from strategies.metrics.statistics import Statistics
from strategies.wire import (
    ArraySize,
    ClientReport,
    EvaluationPoint,
    array_sizes,
    message_bytes,
    read_statistics,
    unpack,
)


@dataclass(frozen=True)
class MessageSize:
    """What the ledger records of a message."""

    size: int = 0
    """Bytes, serialised."""
    arrays: tuple[ArraySize, ...] = ()
    """Of each tensor in it."""

    @property
    def payload(self) -> int:
        """Bytes of the tensors."""
        return sum(array.payload_bytes for array in self.arrays)

    @staticmethod
    def of(message: Message) -> "MessageSize":
        """Measure a message that has been sent or received."""
        return MessageSize(message_bytes(message), tuple(array_sizes(message)))


@dataclass(frozen=True)
class ClientReply:
    """One client's answer."""

    user: int
    """Partition id."""
    shared: Tensors
    report: ClientReport | None
    """None if the client failed, or if `fault` says what is wrong with its report."""
    statistics: Statistics
    """Sums by evaluation point and name, such as `base.confusion`."""
    fault: str | None = None
    """What is wrong with the report."""
    error: str | None = None
    """The client's traceback if it failed for good; everything else is empty then."""
    attempts: tuple[str, ...] = ()
    """Tracebacks of all attempts that failed."""
    down: MessageSize = field(default_factory=MessageSize)
    """The message to the client."""
    up: MessageSize = field(default_factory=MessageSize)
    """The client's message."""

    @classmethod
    def read(
        cls, user: int, content: RecordDict, attempts: tuple[str, ...], down: MessageSize, up: MessageSize
    ) -> "ClientReply":
        """Take the content of a client's message apart; what is wrong with its report becomes the fault."""
        shared, values = unpack(content)
        report, fault = None, None
        try:
            report = ClientReport.from_record(values)
        except ValueError as error:
            fault = str(error)
        return cls(user, shared, report, read_statistics(content), fault, None, attempts, down, up)

    @property
    def retries(self) -> int:
        """How often the client was asked again."""
        return len(self.attempts) - (self.error is not None)

    def statistics_at(self, point: EvaluationPoint) -> Statistics:
        """Return the sums of one evaluation point; empty if it was not evaluated there."""
        prefix = f"{point}."
        return {key.removeprefix(prefix): values for key, values in self.statistics.items() if key.startswith(prefix)}

    def without_tensors(self, keep_report: bool) -> "ClientReply":
        """Return what stays in memory while a round goes on."""
        return replace(self, shared={}, report=self.report if keep_report else None)
