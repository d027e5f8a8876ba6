"""One client's reply to one task, as the server holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flwr.app import Message, RecordDict

from strategies.method import Tensors
from strategies.metrics.statistics import Statistics, check_statistics
from strategies.wire import (
    SECURE,
    ArraySize,
    ClientReport,
    array_sizes,
    message_bytes,
    read_secure,
    read_statistics,
    unpack,
)


@dataclass(frozen=True)
class MessageSize:
    """The sizes of a message that the ledger records."""

    size: int = 0
    """Bytes of the serialised message."""
    arrays: tuple[ArraySize, ...] = ()
    """The size of each tensor in it."""

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
    """One client's reply."""

    user: int
    """Partition id."""
    shared: Tensors
    """Its tensors."""
    report: ClientReport | None
    """None if the client failed or its message is malformed (see `fault`)."""
    statistics: Statistics
    """Sums by evaluation point and name, such as `base.confusion`."""
    fault: str | None = None
    """What is wrong with the message."""
    error: str | None = None
    """The client's traceback if it failed for good; there is no other content then."""
    attempts: tuple[str, ...] = ()
    """Tracebacks of all failed attempts."""
    down: MessageSize = field(default_factory=MessageSize)
    """The message to the client."""
    up: MessageSize = field(default_factory=MessageSize)
    """The client's message."""
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Its tensors as a codec wrote them, until `fl_server.coding` reads them."""
    secure: Mapping[int, bytes] = field(default_factory=dict)
    """Keys or shares by user, for secure aggregation."""

    @classmethod
    def read(
        cls,
        user: int,
        content: RecordDict,
        attempts: tuple[str, ...],
        down: MessageSize,
        up: MessageSize,
        evaluated: bool = False,
    ) -> "ClientReply":
        """Read the content of a client's message; if anything is wrong, that becomes `fault`, the only content.

        Args:
            user: Partition id.
            content: The content.
            attempts: As the attribute.
            down: As the attribute.
            up: As the attribute.
            evaluated: Whether the task asked for statistics.
        """
        try:
            payload, values = unpack(content)
            report, statistics = ClientReport.from_record(values), read_statistics(content)
            secure = read_secure(content.config_records.get(SECURE) or {})
            if statistics and not evaluated:
                raise ValueError("it has statistics, and nothing was evaluated")
            check_statistics(statistics)
        except ValueError as error:
            return cls(user, {}, None, {}, str(error), None, attempts, down, up)
        return cls(user, payload.tensors, report, statistics, None, None, attempts, down, up, payload.blobs, secure)

    def checked_against(self, sizes: dict[str, int]) -> "ClientReply":
        """Return the reply, or one with a fault if its statistics cannot be added to those of earlier replies.

        Args:
            sizes: Lengths of the statistics in earlier replies by name; those of this one are added.
        """
        counts = {key: len(values) for key, values in self.statistics.items()}
        wrong = next((key for key, size in counts.items() if sizes.get(key, size) != size), None)
        if wrong is None:
            sizes |= counts
            return self
        fault = f"statistics '{wrong}' have {counts[wrong]} numbers, those of others {sizes[wrong]}"
        return replace(self, shared={}, report=None, statistics={}, fault=fault)

    @property
    def cause(self) -> str:
        """The last line of the client's traceback, at most 200 characters; "" without one."""
        return last_line(self.error) if self.error else ""

    @property
    def retries(self) -> int:
        """How often the client was retried."""
        return len(self.attempts) - (self.error is not None)

    def statistics_at(self, point: StrEnum) -> Statistics:
        """Return the sums of one evaluation point or baseline; empty if it was not evaluated there."""
        prefix = f"{point}."
        return {key.removeprefix(prefix): values for key, values in self.statistics.items() if key.startswith(prefix)}

    def without_tensors(self, keep_report: bool) -> "ClientReply":
        """Return a copy without tensors, which stays in memory until the end of a round."""
        return replace(self, shared={}, blobs={}, report=self.report if keep_report else None)


def last_line(traceback: str) -> str:
    """Return what a traceback ends with, at most 200 characters."""
    return traceback.strip().splitlines()[-1][:200]
