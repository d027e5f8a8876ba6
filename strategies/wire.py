"""Conversion between named tensors and Flower messages: private tensors are refused, and sent bytes are counted."""

import math
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import message_to_proto
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from strategies.codecs import blob_header
from strategies.method import Tensors

SHARED, TASK, STATISTICS, SECURE = "shared", "task", "numbers", "secure"
"""Names of the records in a message: tensors, plain values, the sums that a client returns, and its keys or shares."""
_BLOB = "fedperfit.blob"
"""Marks an array that `strategies.codecs` reads."""
_LONGEST_HEADER = 1024
_MAGIC, _HEADER = np.lib.format.magic(1, 0), 10
"""Beginning of NumPy's format 1.0, and where its header's text begins, after two bytes with the text's length."""


class Phase(StrEnum):
    """Purpose of a message."""

    ROLL_CALL = "rollcall"
    TRAIN = "train"
    INTRODUCE = "introduce"
    PERSONALIZE = "personalize"
    EVALUATE = "evaluate"
    KEYS = "keys"
    SHARES = "shares"
    UNMASK = "unmask"


TRAINING = (Phase.TRAIN, Phase.INTRODUCE, Phase.KEYS, Phase.SHARES, Phase.UNMASK)
"""Phases whose messages stage 1 needs; the others personalise, measure, or call the roll."""
MASKED = "shared_masked"
"""The one tensor of a masked update."""


class PrivateTensorError(ValueError):
    """A tensor that is not named `shared_*` was about to be sent."""


class MalformedMessage(ValueError):
    """A message that no client of this package would send."""


class Payload(NamedTuple):
    """The tensors of a message: as they are, or as blobs that a codec wrote (`strategies.codecs`)."""

    tensors: Tensors
    blobs: Mapping[str, bytes] = MappingProxyType({})


class ArraySize(NamedTuple):
    """One array of a message, as sent."""

    name: str
    elements: int
    payload_bytes: int
    """Bytes of the values, without name and wrapper."""
    dtype: str
    codec: str = "raw"


_DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "|b1")
"""Number formats of tensors in messages."""
_Count = Annotated[int, Field(ge=0, lt=2**31)]
"""Fits the records' 32-bit columns."""


class _PlainValues(BaseModel):
    """Plain values of a message, validated when created and when received."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def to_record(self) -> dict[str, Any]:
        """Return the values for a message; None values are left out."""
        return self.model_dump(exclude_none=True)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read the values of a message.

        Raises:
            ValueError: A value is missing, unknown, of the wrong type or out of bounds; the first is named.
        """
        try:
            return cls.model_validate(dict(record))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            if not problem["loc"]:  # of several values
                raise ValueError(str(problem["ctx"]["error"])) from None
            key, message = ".".join(map(str, problem["loc"])), problem["msg"]
            if problem["type"] == "missing":
                raise ValueError(f"{key} is missing") from None
            raise ValueError(f"{key}={problem['input']!r}: {message[0].lower()}{message[1:]}") from None


class ClientReport(_PlainValues):
    """A client's report on a completed task."""

    examples: _Count
    """Examples trained on, or questions answered."""
    steps: _Count
    """Optimiser steps."""
    status: Literal["ok", "no_history"] = "ok"
    """`no_history`: the user has nothing to personalise on."""
    examples_cut: _Count | None = None
    """Examples that were cut to fit."""
    questions_cut: _Count | None = None
    """Questions that were cut to fit."""
    loss_first: float | None = None
    """Mean loss of the first step, nats per answer token."""
    loss_last: float | None = None
    """Mean loss of the last step, nats per answer token."""
    figure_names: list[str] | None = None
    """Names of the method's own figures."""
    figure_values: list[float] | None = None
    """Their values."""
    wall_s: float
    """Seconds the task took."""
    ended_at: float
    """End time, seconds since 1970."""
    partition_name: str
    """The slice of a machine that the task ran on."""
    peak_memory_bytes: Annotated[int, Field(ge=0, lt=2**63)]

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        if len(self.figure_names or []) != len(self.figure_values or []):
            raise ValueError("figure_values: expected one for each of figure_names")
        return self


class RollCallAnswer(_PlainValues):
    """A client's answer when the run begins."""

    partition: _Count
    """Partition id of the client's user."""
    history: _Count
    """History items of that user."""
    queries: _Count
    """Questions of that user."""
    versions: str | None = None
    """Package versions as JSON; only real devices send them."""


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
        arrays = {name: _encode(value.contiguous().numpy()) for name, value in payload.tensors.items()}
        arrays |= {
            name: Array(dtype="uint8", shape=(len(blob),), stype=_BLOB, data=blob)
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
    blobs = {name: array.data for name, array in arrays.items() if array.stype == _BLOB}
    tensors = {
        name: torch.from_numpy(_decode(name, array).copy()) for name, array in arrays.items() if name not in blobs
    }
    return Payload(tensors, blobs), dict(content.config_records[TASK])


def _encode(value: np.ndarray) -> Array:
    """Return what Flower's `Array.from_numpy_ndarray` does, in a third of its time."""
    header = _header_of(value.shape, value.dtype)
    return Array(str(value.dtype), value.shape, SType.NUMPY, header + value.tobytes())


@lru_cache(maxsize=4096)
def _header_of(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    )
    return stream.getvalue()


def _decode(name: str, array: Array) -> np.ndarray:
    """Read a tensor that `pack` wrote, trusting nothing that its header declares."""
    try:
        if array.stype != SType.NUMPY or array.data[:8] != _MAGIC:
            raise ValueError("not in NumPy's format 1.0")
        begin = _HEADER + int.from_bytes(array.data[8:_HEADER], "little")
        if begin > _LONGEST_HEADER:
            raise ValueError(f"its header has {begin} bytes")
        shape, dtype = _header(array.data[:begin])
        held, declared = len(array.data) - begin, math.prod(shape) * dtype.itemsize
        if held != declared:
            raise ValueError(f"it declares {declared} bytes and has {held}")
        return np.frombuffer(array.data, dtype, offset=begin).reshape(shape)
    except Exception as error:  # NumPy parses a header as Python
        raise MalformedMessage(f"tensor '{name}' cannot be read: {type(error).__name__}: {error}") from None


@lru_cache(maxsize=4096)
def _header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Parse an array's header; all clients' messages have the same few.

    Raises:
        ValueError: It is not one that `pack` writes.
    """
    stream = BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    if by_column or dtype.str not in _DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"unexpected order, type ({dtype.str}) or shape {shape}")
    return shape, dtype


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


def message_bytes(message: Message) -> int:
    """Return the size of the whole message as Flower serialises it, in bytes."""
    return int(message_to_proto(message).ByteSize())


def array_sizes(message: Message) -> list[ArraySize]:
    """Return the size of every array in a message, from the arrays themselves."""
    if not message.has_content():
        return []
    arrays = message.content.array_records.get(SHARED) or ArrayRecord()
    sizes = [_size(name, array) for name, array in arrays.items()]
    coded = [number for number, size in enumerate(sizes) if size.codec != "raw"]
    # Several changes are together one new value for each number.
    return [size._replace(elements=0) if number in coded[:-1] else size for number, size in enumerate(sizes)]


def _size(name: str, array: Array) -> ArraySize:
    if array.stype == _BLOB:
        codec, numbers = blob_header(array.data)
        return ArraySize(name.partition(".")[0].removeprefix("shared_"), numbers, len(array.data), "uint8", codec)
    try:
        value = _decode(name, array)
    except MalformedMessage:  # it crossed the network nevertheless
        return ArraySize(name, 0, len(array.data), "unreadable")
    return ArraySize(name, int(value.size), int(value.nbytes), str(value.dtype))
