"""Codecs for messages: a flat vector of numbers becomes few bytes, and, approximately, itself again.

`find_codec` reads a config's `wire.up` or `wire.down`; `quantised`, `sparse` and `signs` have the arithmetic, `blob`
puts a message's tensors into one array with a header, and `reference` is what changes are relative to.
"""

from strategies.codecs.blob import HEADER_BYTES, Layout, MalformedBlob, blob_header, read_blob, write_blob
from strategies.codecs.codec import Codec, find_codec
from strategies.codecs.reference import (
    EXACT,
    Copies,
    Reference,
    change_name,
    codecs_of,
    copy_name,
    minus,
    plus,
    values_name,
)

__all__ = [
    "EXACT",
    "HEADER_BYTES",
    "Codec",
    "Copies",
    "Layout",
    "MalformedBlob",
    "Reference",
    "blob_header",
    "change_name",
    "codecs_of",
    "copy_name",
    "find_codec",
    "minus",
    "plus",
    "read_blob",
    "values_name",
    "write_blob",
]
