"""All tensors of a message in one array of bytes, behind a header that the receiver checks."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from strategies.codecs.codec import KINDS, Codec, find_codec
from strategies.method import Tensors

_HEADER = struct.Struct("<2sBBIIQ")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_MAGIC, _VERSION = b"fp", 1


class MalformedBlob(ValueError):
    """Bytes that no sender of this package would send."""


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors in a message, which both sides know, so that they are not sent.

    Matrices are coded. Vectors, such as PerFit's b, are few numbers of another scale and go as fp16, or as fp32 if the
    codec is `fp32`.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Tensors) -> "Layout":
        """Return the layout of given tensors."""
        return cls({name: tuple(tensors[name].shape) for name in sorted(tensors)})

    def numbers(self, matrices: bool) -> int:
        """Return how many numbers the matrices, or the vectors, have."""
        return sum(int(np.prod(shape)) for shape in self._of(matrices).values())

    def flatten(self, tensors: Tensors, matrices: bool) -> np.ndarray:
        """Return the numbers of the matrices, or of the vectors, in the order of their names.

        Raises:
            ValueError: A tensor is missing, unknown or of another shape.
        """
        if (shapes := Layout.of(tensors).shapes) != self.shapes:
            wrong = sorted(name for name in {*shapes, *self.shapes} if shapes.get(name) != self.shapes.get(name))[0]
            raise ValueError(f"tensor '{wrong}' has shape {shapes.get(wrong)}, expected {self.shapes.get(wrong)}")
        parts = [tensors[name].detach().reshape(-1).numpy() for name in self._of(matrices)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)

    def restore(self, matrices: np.ndarray, vectors: np.ndarray) -> Tensors:
        """Undo `flatten`."""
        tensors: Tensors = {}
        for values, chosen in ((matrices, self._of(True)), (vectors, self._of(False))):
            begin = 0
            for name, shape in chosen.items():
                end = begin + int(np.prod(shape))
                tensors[name] = torch.from_numpy(values[begin:end].reshape(shape).copy())
                begin = end
        return tensors

    def _of(self, matrices: bool) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in self.shapes.items() if (len(shape) > 1) == matrices}


def write_blob(codec: Codec, layout: Layout, tensors: Tensors, round_number: int, seed: int) -> bytes:
    """Write a message's tensors: a header of 24 bytes, the coded matrices, the vectors.

    Args:
        codec: How matrices are written.
        layout: The tensors' names and shapes.
        tensors: The values.
        round_number: The round; the receiver checks it.
        seed: Decides what the codec draws; part of the header.

    Raises:
        ValueError: A tensor does not fit the layout, or is not finite.
    """
    matrices, vectors = layout.flatten(tensors, True), layout.flatten(tensors, False)
    if not (np.isfinite(matrices).all() and np.isfinite(vectors).all()):
        raise ValueError("a value to send is not finite")
    coded = codec.encode(matrices, seed) if len(matrices) else b""
    body = coded + _codec_of_vectors(codec).encode(vectors, seed)
    head = _HEADER.pack(_MAGIC, _VERSION, codec.number, round_number, len(matrices) + len(vectors), seed)
    return head + _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(head))) + body


def read_blob(codec: Codec, layout: Layout, blob: bytes, round_number: int) -> Tensors:
    """Read what `write_blob` wrote, trusting nothing in it.

    Raises:
        MalformedBlob: Says what is wrong.
    """
    if len(blob) < HEADER_BYTES:
        raise MalformedBlob(f"{len(blob)} bytes are less than a header")
    magic, version, number, round_sent, count, seed = _HEADER.unpack_from(blob)
    expected = layout.numbers(True), layout.numbers(False)
    for what, given, wanted in (
        ("mark", magic, _MAGIC),
        ("version", version, _VERSION),
        ("codec", number, codec.number),
        ("round", round_sent, round_number),
        ("count of numbers", count, sum(expected)),
    ):
        if given != wanted:
            raise MalformedBlob(f"its {what} is {given!r}, expected {wanted!r}")
    body = blob[HEADER_BYTES:]
    if zlib.crc32(body, zlib.crc32(blob[: _HEADER.size])) != _CHECKSUM.unpack_from(blob, _HEADER.size)[0]:
        raise MalformedBlob("its checksum does not fit")
    plain = _codec_of_vectors(codec)
    end = len(body) - len(plain.encode(np.zeros(expected[1], np.float32), 0))
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            matrices = codec.decode(body[: max(end, 0)], expected[0], seed) if expected[0] else np.zeros(0, np.float32)
            vectors = plain.decode(body[max(end, 0) :], expected[1], seed)
    except ValueError as error:
        raise MalformedBlob(str(error)) from None
    if not (np.isfinite(matrices).all() and np.isfinite(vectors).all()):
        raise MalformedBlob("a decoded value is not finite")
    return layout.restore(matrices, vectors)


def blob_header(blob: bytes) -> tuple[str, int]:
    """Return the codec that a blob's header names, without a share, and how many numbers it says that there are."""
    if len(blob) < HEADER_BYTES:
        return "unreadable", 0
    _, _, number, _, count, _ = _HEADER.unpack_from(blob)
    return KINDS.get(number, "unreadable"), int(count)


def _codec_of_vectors(codec: Codec) -> Codec:
    return find_codec("fp32" if codec.name == "fp32" else "fp16")
