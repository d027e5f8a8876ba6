"""Between named tensors and Flower messages: what travels, refused if private, counted as sent."""

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto

from strategies.method import Tensors

SHARED, TASK, NUMBERS = "shared", "task", "numbers"
"""Names of the records in a message: tensors, plain values, and the sums a client returns."""


class PrivateTensorError(ValueError):
    """A tensor that is not `shared_*` was about to enter a message."""


def pack(shared: Tensors | None = None, task: Mapping[str, Any] | None = None) -> RecordDict:
    """Make the content of a message.

    Args:
        shared: Tensors to send; each name must begin with `shared_`.
        task: Plain values: numbers, texts, or lists of numbers.

    Raises:
        PrivateTensorError: A tensor's name does not begin with `shared_`.
    """
    content = RecordDict()
    if shared is not None:
        for name in shared:
            if not name.startswith("shared_"):
                raise PrivateTensorError(f"tensor '{name}' must not travel: only names that begin with shared_ do")
        arrays = {name: Array.from_numpy_ndarray(value.contiguous().numpy()) for name, value in shared.items()}
        content.array_records[SHARED] = ArrayRecord(arrays)
    content.config_records[TASK] = ConfigRecord(dict(task or {}))
    return content


def unpack(content: RecordDict) -> tuple[Tensors, dict[str, Any]]:
    """Take a message's content apart: tensors (none: empty) and plain values."""
    tensors: Tensors = {}
    if SHARED in content.array_records:
        for name, array in content.array_records[SHARED].items():
            tensors[name] = torch.from_numpy(array.numpy().copy())
    return tensors, dict(content.config_records[TASK])


def put_numbers(content: RecordDict, numbers: Mapping[str, list[float]]) -> None:
    """Add named lists of numbers to a message's content."""
    content.metric_records[NUMBERS] = MetricRecord({key: list(values) for key, values in numbers.items()})


def take_numbers(content: RecordDict) -> dict[str, list[float]]:
    """Return the named lists of numbers of a message's content."""
    if NUMBERS not in content.metric_records:
        return {}
    return {key: list(value) for key, value in content.metric_records[NUMBERS].items() if isinstance(value, list)}


def message_bytes(message: Message) -> int:
    """Return the size of the whole message as Flower serialises it, in bytes."""
    return int(message_to_proto(message).ByteSize())


def array_bytes(message: Message) -> list[tuple[str, int, int, str]]:
    """Return (name, elements, payload bytes, dtype) of every tensor in a message, from the tensors themselves."""
    if not message.has_content() or SHARED not in message.content.array_records:
        return []
    arrays = message.content.array_records[SHARED]
    decoded = ((name, array.numpy()) for name, array in arrays.items())
    return [(name, int(value.size), int(value.nbytes), str(value.dtype)) for name, value in decoded]
