"""What a message contains: private tensors are refused, and what cannot be read is never trusted."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from strategies.method import Tensors
from strategies.wire.arrays import MalformedMessage, decode, encode

SHARED, TASK, STATISTICS, SECURE = "shared", "task", "numbers", "secure"
"""Names of the records in a message: tensors, plain values, the sums that a client returns, and its keys or shares."""
BLOB = "fedperfit.blob"
"""Marks an array that `strategies.codecs` reads."""
MASKED = "shared_masked"
"""The one tensor of a masked update."""


class PrivateTensorError(ValueError):
    """A tensor that is not named `shared_*` was about to be sent."""


class Payload(NamedTuple):
    """The tensors of a message: as they are, or as blobs that a codec wrote (`strategies.codecs`)."""

    tensors: Tensors
    blobs: Mapping[str, bytes] = MappingProxyType({})


def pack(payload: Payload | None = None, task: Mapping[str, Any] | None = None) -> RecordDict:
    """Build the content of a message.

    Args:
        payload: Tensors and blobs to send; each name must begin with `shared_`.
        task: Plain values: numbers, strings, or lists of numbers.

    Raises:
        PrivateTensorError: A tensor's name does not begin with `shared_`.
    """
    content = RecordDict()
    if payload is not None:
        for name in (*payload.tensors, *payload.blobs):
            if not name.startswith("shared_"):
                raise PrivateTensorError(f"tensor '{name}' must not be sent: its name does not begin with shared_")
        arrays = {name: encode(value.contiguous().numpy()) for name, value in payload.tensors.items()}
        arrays |= {
            name: Array(dtype="uint8", shape=(len(blob),), stype=BLOB, data=blob)
            for name, blob in payload.blobs.items()
        }
        content.array_records[SHARED] = ArrayRecord(arrays)
    content.config_records[TASK] = ConfigRecord(dict(task or {}))
    return content


def unpack(content: RecordDict) -> tuple[Payload, dict[str, Any]]:
    """Split a message's content into its payload (empty if there is none) and plain values.

    Raises:
        MalformedMessage: The plain values are missing, or a tensor cannot be read; nothing of its size was allocated.
    """
    if TASK not in content.config_records:
        raise MalformedMessage(f"record '{TASK}' is missing")
    arrays = content.array_records.get(SHARED) or ArrayRecord()
    blobs = {name: array.data for name, array in arrays.items() if array.stype == BLOB}
    tensors = {
        name: torch.from_numpy(decode(name, array).copy()) for name, array in arrays.items() if name not in blobs
    }
    return Payload(tensors, blobs), dict(content.config_records[TASK])


def write_statistics(content: RecordDict, statistics: Mapping[str, list[float]]) -> None:
    """Add a client's sums, by name, to a message's content."""
    content.metric_records[STATISTICS] = MetricRecord({key: list(values) for key, values in statistics.items()})


def read_statistics(content: RecordDict) -> dict[str, list[float]]:
    """Return the sums in a message's content by name; empty if there are none.

    Raises:
        MalformedMessage: A sum is not a list of finite numbers of at least 0.
    """
    statistics: dict[str, list[float]] = {}
    for key, values in (content.metric_records.get(STATISTICS) or MetricRecord()).items():
        if not isinstance(values, list) or not all(math.isfinite(value) and value >= 0 for value in values):
            raise MalformedMessage(f"statistics '{key}' are not finite numbers of at least 0")
        statistics[key] = list(values)
    return statistics


def secure_values(by_user: Mapping[int, bytes]) -> dict[str, list[int] | list[bytes]]:
    """Return keys or shares by user as plain values of a message."""
    return {"users": list(by_user), "values": list(by_user.values())}


def read_secure(values: Mapping[str, Any]) -> dict[int, bytes]:
    """Return keys or shares by user; empty if there are none.

    Raises:
        MalformedMessage: They are not bytes by partition id.
    """
    users, contents = values.get("users", []), values.get("values", [])
    fits = isinstance(users, list) and isinstance(contents, list) and len(users) == len(contents) == len({*users})
    if not fits or not all(type(user) is int for user in users) or not all(type(item) is bytes for item in contents):
        raise MalformedMessage("keys or shares are not bytes by user")
    return dict(zip(users, contents, strict=True))
