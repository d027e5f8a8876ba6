"""Conversion between named tensors and Flower messages.

`content` has what a message contains, `arrays` its tensors' format, `answers` what a client tells in plain values,
`phases` what messages are for, and `sizes` their bytes.
"""

from strategies.wire.answers import ClientReport, RollCallAnswer
from strategies.wire.arrays import MalformedMessage
from strategies.wire.content import (
    MASKED,
    SECURE,
    SHARED,
    STATISTICS,
    TASK,
    Payload,
    PrivateTensorError,
    pack,
    read_secure,
    read_statistics,
    secure_values,
    unpack,
    write_statistics,
)
from strategies.wire.phases import TRAINING, Phase
from strategies.wire.sizes import ArraySize, array_sizes, message_bytes

__all__ = [
    "MASKED",
    "SECURE",
    "SHARED",
    "STATISTICS",
    "TASK",
    "TRAINING",
    "ArraySize",
    "ClientReport",
    "MalformedMessage",
    "Payload",
    "Phase",
    "PrivateTensorError",
    "RollCallAnswer",
    "array_sizes",
    "message_bytes",
    "pack",
    "read_secure",
    "read_statistics",
    "secure_values",
    "unpack",
    "write_statistics",
]
