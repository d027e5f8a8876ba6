"""A message's tensors in one array of bytes."""

import math
import struct
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from strategies.codecs import HEADER_BYTES, Layout, MalformedBlob, find_codec, read_blob, write_blob

TENSORS = {
    "shared_x.1.R": torch.arange(12.0).reshape(3, 4),
    "shared_x.1.D": -torch.arange(8.0).reshape(2, 4),
    "shared_x.1.b": torch.tensor([0.1, 0.2, 0.3]),
}
LAYOUT = Layout.of(TENSORS)


def test_a_blob_is_its_header_the_matrices_and_the_vectors() -> None:
    assert HEADER_BYTES == 24
    blob = write_blob(find_codec("fp32"), LAYOUT, TENSORS, 3, 17)
    # In the order of names: D, R, then b.
    body = struct.pack("<23f", *(-float(number) for number in range(8)), *range(12), 0.1, 0.2, 0.3)
    head = b"fp" + bytes([1, 1]) + struct.pack("<IIQ", 3, 23, 17)
    assert blob == head + struct.pack("<I", zlib.crc32(head + body)) + body


def test_vectors_go_as_fp16_whatever_the_codec() -> None:
    blob = write_blob(find_codec("sign"), LAYOUT, TENSORS, 3, 0)
    assert len(blob) == HEADER_BYTES + math.ceil(20 / 8) + 4 + 2 * 3
    back = read_blob(find_codec("sign"), LAYOUT, blob, 3)
    assert torch.equal(back["shared_x.1.b"], TENSORS["shared_x.1.b"].half().float())


@pytest.mark.parametrize("name", ["fp32", "int8", "top-k 0.5", "drive"])
def test_a_blob_comes_back_with_names_and_shapes(name: str) -> None:
    codec = find_codec(name)
    back = read_blob(codec, LAYOUT, write_blob(codec, LAYOUT, TENSORS, 0, 9), 0)
    assert Layout.of(back) == LAYOUT
    if name == "fp32":
        assert all(torch.equal(back[key], TENSORS[key]) for key in TENSORS)


def damaged() -> dict[str, tuple[bytes, str]]:
    good = write_blob(find_codec("int8"), LAYOUT, TENSORS, 3, 0)

    def resealed(head: bytes, body: bytes) -> bytes:
        return head + struct.pack("<I", zlib.crc32(head + body)) + body

    head, body = good[:20], good[24:]
    return {
        "nothing": (b"", "less than a header"),
        "another mark": (b"PK" + good[2:], "its mark is"),
        "another version": (good[:2] + b"\x02" + good[3:], "its version is 2"),
        "another codec": (good[:3] + b"\x05" + good[4:], "its codec is 5, expected 4"),
        "another round": (good[:4] + b"\x09" + good[5:], "its round is 9, expected 3"),
        "another count": (good[:8] + b"\xff" * 4 + good[12:], "its count of numbers is 4294967295, expected 23"),
        "a flipped bit": (good[:-1] + bytes([good[-1] ^ 1]), "checksum"),
        "too short, sealed again": (resealed(head, body[:-1]), "bytes"),
        "too long, sealed again": (resealed(head, body + b"\0"), "bytes"),
        "not finite, sealed again": (resealed(head, b"\xff" * len(body)), "not finite"),
    }


@pytest.mark.parametrize("what", damaged())
def test_a_damaged_blob_is_refused(what: str) -> None:
    blob, message = damaged()[what]
    with pytest.raises(MalformedBlob, match=message):
        read_blob(find_codec("int8"), LAYOUT, blob, 3)


@given(
    some.binary(max_size=200), some.sampled_from(["fp32", "int4", "top-k 0.3", "ternary 0.3", "sign", "drive", "bf16"])
)
def test_no_body_makes_anything_else_happen(body: bytes, name: str) -> None:
    codec = find_codec(name)
    head = write_blob(codec, LAYOUT, TENSORS, 3, 0)[:20]
    try:
        back = read_blob(codec, LAYOUT, head + struct.pack("<I", zlib.crc32(head + body)) + body, 3)
    except MalformedBlob:
        return
    assert Layout.of(back) == LAYOUT
    assert all(bool(torch.isfinite(value).all()) for value in back.values())


def test_what_does_not_fit_is_not_sent() -> None:
    codec = find_codec("int8")
    with pytest.raises(ValueError, match=r"tensor 'shared_x\.1\.b' has shape None, expected \(3,\)"):
        write_blob(codec, LAYOUT, {key: value for key, value in TENSORS.items() if not key.endswith("b")}, 3, 0)
    with pytest.raises(ValueError, match="not finite"):
        write_blob(codec, LAYOUT, TENSORS | {"shared_x.1.b": torch.full((3,), math.nan)}, 3, 0)
