"""Tensors as Flower's arrays in NumPy's format."""

import math
from functools import lru_cache
from io import BytesIO

import numpy as np
from flwr.app import Array
from flwr.common.constant import SType

_DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "|b1")
"""Number formats of tensors in messages."""
_LONGEST_HEADER = 1024
_MAGIC, _HEADER = np.lib.format.magic(1, 0), 10
"""Beginning of NumPy's format 1.0, and where its header's text begins, after two bytes with the text's length."""


class MalformedMessage(ValueError):
    """A message that no client of this package would send."""


def encode(value: np.ndarray) -> Array:
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


def decode(name: str, array: Array) -> np.ndarray:
    """Read a tensor that `encode` wrote, trusting nothing that its header declares.

    Raises:
        MalformedMessage: It cannot be read; nothing of the size that it declares was allocated.
    """
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
        ValueError: It is not one that `encode` writes.
    """
    stream = BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    if by_column or dtype.str not in _DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"unexpected order, type ({dtype.str}) or shape {shape}")
    return shape, dtype
