"""Codecs for messages: a flat vector of numbers becomes few bytes, and, approximately, itself again.

`find_codec` reads a config's `wire.up` or `wire.down`; `quantised`, `sparse` and `signs` have the arithmetic, `blob`
puts a message's tensors into one array with a header.
"""

from strategies.codecs.blob import HEADER_BYTES, Layout, MalformedBlob, read_blob, write_blob
from strategies.codecs.codec import Codec, find_codec

__all__ = ["HEADER_BYTES", "Codec", "Layout", "MalformedBlob", "find_codec", "read_blob", "write_blob"]
