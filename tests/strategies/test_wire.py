"""What may be put into a message, and that bytes are measured on the message that is sent."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_server.record.reply import ClientReply, MessageSize
from strategies.wire import (
    SHARED,
    STATISTICS,
    TASK,
    ClientReport,
    MalformedMessage,
    Payload,
    PrivateTensorError,
    array_sizes,
    message_bytes,
    pack,
    read_statistics,
    unpack,
    write_statistics,
)


@pytest.fixture(autouse=True)
def _identity() -> None:
    # Flower's processes set these before they create messages.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def test_content_survives_the_round_trip() -> None:
    shared = {"shared_x.1.R": torch.randn(2, 3), "shared_x.1.b": torch.zeros(2)}
    content = pack(Payload(shared), {"round": 3})
    write_statistics(content, {"a": [1.0, 2.0]})
    (tensors, blobs), task = unpack(content)
    assert not blobs
    assert task == {"round": 3}
    assert read_statistics(content) == {"a": [1.0, 2.0]}
    for name, value in shared.items():
        assert torch.equal(tensors[name], value)


@pytest.mark.parametrize("value", [torch.zeros(4, 16), torch.tensor(3.0), torch.arange(5), torch.zeros(0, 3)])
def test_a_tensor_is_written_as_flower_writes_it(value: torch.Tensor) -> None:
    (array,) = pack(Payload({"shared_x": value})).array_records["shared"].values()
    flowers = Array.from_numpy_ndarray(value.numpy())
    assert (array.data, array.dtype, array.shape) == (flowers.data, flowers.dtype, flowers.shape)


def test_a_private_tensor_cannot_be_packed() -> None:
    with pytest.raises(PrivateTensorError, match=r"private_x\.1\.R"):
        pack(Payload({"private_x.1.R": torch.zeros(1)}))


def test_bytes_are_those_of_the_message() -> None:
    message = Message(pack(Payload({"shared_x.1.R": torch.zeros(20, 30)})), dst_node_id=1, message_type="train")
    assert array_sizes(message) == [("shared_x.1.R", 600, 2400, "float32", "raw")]
    assert 2400 < message_bytes(message) < 2400 + 400


REPORT = ClientReport(examples=1, steps=1, wall_s=0.0, ended_at=0.0, partition_name="cpu", peak_memory_bytes=0)


def as_sent(value: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def with_header(text: str, data: bytes = b"") -> bytes:
    """Bytes in NumPy's format whose header says anything."""
    header = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


MALFORMED = {
    "text": as_sent(np.array(["a", "b"])),
    "big-endian": as_sent(np.zeros(3, ">f4")),
    "truncated": as_sent(np.zeros(3, "<f4"))[:-1],
    "too long": as_sent(np.zeros(3, "<f4")) + b"x",
    "4 TB": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
    "more than memory can address": with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},)}}"),
    "negative": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", b"\0\0\0\0"),
    "objects": with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04K\x01.    "),
    "by column": as_sent(np.asfortranarray(np.zeros((2, 3), "<f4"))),
    "a record type": with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"\0\0\0\0"),
    "no header": b"\x93NUMPY\x01\x00",
    "deep": with_header("(" * 50 + ")" * 50),
    "half a header": with_header("{'descr': ("),
    "an open string": with_header("{'descr': '''"),
    "a long double": with_header("{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}", b"\\0" * 16),
    "indented": with_header("  {'descr'\\n   : 1\\n }"),
    "empty": b"",
}


def reply_with(content: RecordDict, evaluated: bool = False) -> ClientReply:
    """Read a reply as the server does, with its sizes."""
    message = Message(content, dst_node_id=1, message_type="train")
    return ClientReply.read(3, message.content, (), MessageSize(), MessageSize.of(message), evaluated)


@pytest.mark.parametrize(
    "statistics",
    [
        {"base.confusion": [1.0, 2.0, 3.0]},
        {"base.count": [1.0]},
        {"base.rouge1": [], "base.rougeL": [], "base.count": []},
        {"nowhere.confusion": [1.0, 1.0]},
        {"base.rouge1": [1.0], "base.count": [1.0]},
    ],
)
def test_statistics_that_no_task_has_are_a_fault(statistics: dict[str, list[float]]) -> None:
    content = pack(Payload({}), REPORT.to_record())
    write_statistics(content, statistics)
    assert "are not those of a task" in (reply_with(content, evaluated=True).fault or "")
    assert "nothing was evaluated" in (reply_with(content).fault or "")


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_tensor_is_a_fault_and_allocates_nothing(kind: str) -> None:
    content = pack(Payload({"shared_x.1.R": torch.zeros(1)}), REPORT.to_record())
    data = MALFORMED[kind]
    content.array_records[SHARED]["shared_x.1.W"] = Array("float32", (3,), "numpy.ndarray", data)
    reply = reply_with(content)
    assert (reply.shared, reply.report) == ({}, None)
    assert (reply.fault or "").startswith("tensor 'shared_x.1.W' cannot be read: ")
    # The ledger counts what crossed the network.
    assert ("shared_x.1.W", 0, len(data), "unreadable", "raw") in reply.up.arrays


def test_a_missing_or_mistyped_record_is_a_fault() -> None:
    content = RecordDict({SHARED: ArrayRecord()})
    assert reply_with(content).fault == "record 'task' is missing"
    content = pack(Payload({}), {**REPORT.to_record(), "wall_s": "long"})
    assert "wall_s='long'" in (reply_with(content).fault or "")
    content = pack(Payload({}), {**REPORT.to_record(), "figure_names": ["a", "b"], "figure_values": [1.0]})
    assert "figure_values: expected one for each of figure_names" in (reply_with(content).fault or "")
    for values in ([1.0, float("nan")], [-1.0], 2.0):
        content = pack(Payload({}), REPORT.to_record())
        content.metric_records[STATISTICS] = MetricRecord({"base.confusion": values})
        assert "base.confusion" in (reply_with(content).fault or "")
        with pytest.raises(MalformedMessage):
            read_statistics(content)


def test_statistics_of_another_length_than_those_of_others_are_a_fault() -> None:
    sizes: dict[str, int] = {}
    replies = []
    for length in (6, 6, 12):
        content = pack(Payload({}), REPORT.to_record())
        write_statistics(content, {"base.confusion": [1.0] * length})
        replies.append(reply_with(content, evaluated=True).checked_against(sizes))
    assert [reply.fault for reply in replies[:2]] == [None, None]
    assert replies[2].fault == "statistics 'base.confusion' have 12 numbers, those of others 6"
    assert replies[2].statistics == {}


VALUES: Any = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.floats(), max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=12), st.binary(max_size=200) | st.sampled_from(list(MALFORMED.values())), max_size=3
    ),
    st.sampled_from(["numpy.ndarray", "", "torch.Tensor"]),
    st.dictionaries(st.sampled_from(list(ClientReport.model_fields)) | st.text(max_size=8), VALUES, max_size=9),
    st.dictionaries(st.text(max_size=12), st.lists(st.floats(), max_size=4), max_size=3),
    st.sets(st.sampled_from([SHARED, TASK, STATISTICS])),
)
def test_no_message_can_break_the_server(
    tensors: dict[str, bytes], kind: str, values: dict[str, Any], sums: dict[str, list[float]], missing: set[str]
) -> None:
    content = RecordDict()
    content.array_records[SHARED] = ArrayRecord({name: Array("f", (1,), kind, data) for name, data in tensors.items()})
    content.config_records[TASK] = ConfigRecord(values)
    content.metric_records[STATISTICS] = MetricRecord({key: numbers for key, numbers in sums.items() if numbers})
    for name in missing:
        del content[name]
    reply = reply_with(content)
    assert (reply.report is None) == (reply.fault is not None)
