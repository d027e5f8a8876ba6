"""What both sides of a coded exchange hold: shared tensors in wire form, to which changes are added."""

from collections.abc import Mapping
from dataclasses import dataclass

from strategies.codecs.blob import Layout, MalformedBlob, blob_header, read_blob, write_blob
from strategies.codecs.codec import Codec, find_codec
from strategies.method import Method, Tensors

EXACT = "fp32"
"""The codec of copies that are the values themselves."""
_CHANGE, _COPY, _VALUES = "shared_change", "shared_copy", "shared_values"


@dataclass(frozen=True)
class Copies:
    """How all values are written for a client that has missed too much, or everything: exactly, or coded."""

    codec: Codec
    """Of the difference from the initial values; with `EXACT`, the values themselves are written."""
    start: Tensors
    """The initial values, in wire form."""

    def write(self, reference: "Reference", seed: int, exact: bool = False) -> bytes:
        """Return all values of a version, which the codec's name in the blob's header tells to be exact or not."""
        if exact or self.codec.name == EXACT:
            return write_blob(find_codec(EXACT), reference.layout, reference.tensors, reference.version, 0)
        change = minus(reference.tensors, self.start)
        return write_blob(self.codec, reference.layout, change, reference.version, seed)

    def read(self, layout: Layout, blob: bytes, version: int) -> Tensors:
        """Return the values that who got a copy has: not quite the server's, unless it is exact.

        Raises:
            MalformedBlob: The blob cannot be read.
        """
        if blob_header(blob)[0] == EXACT:
            return read_blob(find_codec(EXACT), layout, blob, version)
        return plus(self.start, read_blob(self.codec, layout, blob, version))


@dataclass(frozen=True)
class Reference:
    """Shared tensors in wire form (`Method.to_wire`) at a version: the round in which they are sent, 0 at the start."""

    version: int
    tensors: Tensors

    @property
    def layout(self) -> Layout:
        """Names and shapes."""
        return Layout.of(self.tensors)

    def write_change(self, codec: Codec, to: Tensors, seed: int) -> bytes:
        """Return the change from this version to the values `to` of the next one."""
        return write_blob(codec, self.layout, minus(to, self.tensors), self.version + 1, seed)

    def write_values(self, codec: Codec, to: Tensors, seed: int) -> bytes:
        """Return the values `to` of the next version, coded as they are."""
        return write_blob(codec, self.layout, to, self.version + 1, seed)

    def receive(self, codec: Codec, blobs: Mapping[str, bytes], copies: Copies) -> "Reference":
        """Return the version that a message leads to.

        Args:
            codec: How changes are written.
            blobs: A copy, coded values, or every change since this version.
            copies: How copies are written.

        Raises:
            MalformedBlob: A change is missing, or a blob cannot be read.
        """
        current = self
        for number, name in sorted((_version_in(name), name) for name in blobs):
            if name == copy_name(number):
                values = copies.read(self.layout, blobs[name], number)
            elif name == values_name(number):
                values = read_blob(codec, self.layout, blobs[name], number)
            elif name == change_name(number) and number == current.version + 1:
                values = plus(current.tensors, read_blob(codec, self.layout, blobs[name], number))
            else:
                raise MalformedBlob(f"'{name}' does not follow version {current.version}")
            current = Reference(number, values)
        return current


def codecs_of(up: str, down: str, method: Method) -> tuple[Codec | None, Codec | None]:
    """Return the codecs of a config's `wire`; None for `raw`, and for a method without stage 1, which sends nothing."""
    silent = method.first_round is None
    first, second = (None if silent or name == "raw" else find_codec(name) for name in (up, down))
    return first, second


def change_name(version: int) -> str:
    """Return the name of the blob with the change that leads to a version."""
    return f"{_CHANGE}.{version}"


def copy_name(version: int) -> str:
    """Return the name of the blob with all values of a version."""
    return f"{_COPY}.{version}"


def values_name(version: int) -> str:
    """Return the name of the blob with a version's values as the codec writes them."""
    return f"{_VALUES}.{version}"


def plus(values: Tensors, change: Tensors) -> Tensors:
    """Return values + change, by name."""
    return {name: value + change[name] for name, value in values.items()}


def minus(values: Tensors, others: Tensors) -> Tensors:
    """Return values − others, by name."""
    return {name: value - others[name] for name, value in values.items()}


def _version_in(name: str) -> int:
    number = name.rpartition(".")[2]
    if not number.isdecimal():
        raise MalformedBlob(f"'{name}' names no version")
    return int(number)
