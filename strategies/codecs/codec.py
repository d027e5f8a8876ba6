"""What a codec is, and which there are."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from strategies.codecs import quantised, signs, sparse


@dataclass(frozen=True)
class Codec:
    """One way to write a vector of n numbers in few bytes."""

    name: str
    """As in the config, such as `int4` or `top-k 0.01`."""
    number: int
    """Identifies it in a message's header."""
    feedback: bool
    """The error is systematic, so the sender has to add it to its next message (error feedback). Else it has mean 0 or
    is that of rounding."""
    encode: Callable[[np.ndarray, int], bytes]
    """Bytes of a float32 vector; the seed decides what is random."""
    decode: Callable[[bytes, int, int], np.ndarray]
    """The float32 vector of n numbers, from its bytes, n and the seed.

    Raises:
        ValueError: The bytes are not those of n numbers.
    """


_TOP, _TERNARY = 6, 7
_SHARE = re.compile(r"(top-k|ternary) (\d*\.?\d+(?:e-?\d+)?)")
_FIXED = {
    codec.name: codec
    for codec in (
        Codec("fp32", 1, False, quantised.write_fp32, quantised.read_fp32),
        Codec("fp16", 2, False, quantised.write_fp16, quantised.read_fp16),
        Codec("bf16", 3, False, quantised.write_bf16, quantised.read_bf16),
        Codec("int8", 4, False, partial(quantised.write_int, 8), partial(quantised.read_int, 8)),
        Codec("int4", 5, False, partial(quantised.write_int, 4), partial(quantised.read_int, 4)),
        Codec("sign", 8, True, signs.write_sign, signs.read_sign),
        Codec("drive", 9, False, signs.write_drive, signs.read_drive),
        Codec("nonzero", 10, False, sparse.write_nonzero, sparse.read_nonzero),
    )
}
KINDS = {codec.number: codec.name for codec in _FIXED.values()} | {_TOP: "top-k", _TERNARY: "ternary"}
"""Names by `Codec.number`, without a share."""


def find_codec(name: str) -> Codec:
    """Return the codec of a config.

    Args:
        name: `fp32`, `fp16`, `bf16`, `int8`, `int4`, `sign`, `drive`, `nonzero`, or with a share of the numbers
            `top-k 0.01` or `ternary 0.01`.

    Raises:
        ValueError: There is no such codec, or the share is not above 0 and at most 1.
    """
    if name in _FIXED:
        return _FIXED[name]
    if not (match := _SHARE.fullmatch(name)):
        raise ValueError(f"'{name}': expected raw, {', '.join(_FIXED)}, 'top-k 0.01' or 'ternary 0.01'")
    kind, share = match[1], float(match[2])
    if not 0 < share <= 1:
        raise ValueError(f"'{name}': expected a share of the numbers above 0 and at most 1")
    if kind == "top-k":
        return Codec(name, _TOP, True, partial(sparse.write_top, share), partial(sparse.read_top, share))
    return Codec(name, _TERNARY, True, partial(sparse.write_ternary, share), partial(sparse.read_ternary, share))
