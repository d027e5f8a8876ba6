"""What may be put into a message, and that bytes are measured on the message that is sent."""

import pytest
import torch
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from strategies.wire import (
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
    content = pack(shared, {"round": 3})
    write_statistics(content, {"a": [1.0, 2.0]})
    tensors, task = unpack(content)
    assert task == {"round": 3}
    assert read_statistics(content) == {"a": [1.0, 2.0]}
    for name, value in shared.items():
        assert torch.equal(tensors[name], value)


def test_a_private_tensor_cannot_be_packed() -> None:
    with pytest.raises(PrivateTensorError, match=r"private_x\.1\.R"):
        pack({"private_x.1.R": torch.zeros(1)})


def test_bytes_are_those_of_the_message() -> None:
    message = Message(pack({"shared_x.1.R": torch.zeros(20, 30)}), dst_node_id=1, message_type="train")
    assert array_sizes(message) == [("shared_x.1.R", 600, 2400, "float32")]
    assert 2400 < message_bytes(message) < 2400 + 400
