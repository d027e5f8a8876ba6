"""Bytes of messages, counted on what is sent."""

from typing import NamedTuple

from flwr.app import Array, ArrayRecord, Message
from flwr.common.serde import message_to_proto

from strategies.codecs import blob_header
from strategies.wire.arrays import MalformedMessage, decode
from strategies.wire.content import BLOB, SHARED


class ArraySize(NamedTuple):
    """One array of a message, as sent."""

    name: str
    elements: int
    payload_bytes: int
    """Bytes of the values, without name and wrapper."""
    dtype: str
    codec: str = "raw"


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
    if array.stype == BLOB:
        codec, numbers = blob_header(array.data)
        return ArraySize(name.partition(".")[0].removeprefix("shared_"), numbers, len(array.data), "uint8", codec)
    try:
        value = decode(name, array)
    except MalformedMessage:  # it crossed the network nevertheless
        return ArraySize(name, 0, len(array.data), "unreadable")
    return ArraySize(name, int(value.size), int(value.nbytes), str(value.dtype))
