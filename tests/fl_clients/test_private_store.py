"""A client's state between rounds is that of the last round that the server counted."""

from pathlib import Path

import torch

from fl_clients.private_store import read_client_state, write_client_state

USER = 4


def state(number: float) -> dict[str, torch.Tensor]:
    return {"kept_x": torch.tensor([number])}


def test_the_state_is_that_of_the_last_round_counted(tmp_path: Path) -> None:
    assert read_client_state(tmp_path, USER, 1, -1) == {}
    write_client_state(tmp_path, USER, 1, -1, state(1))
    write_client_state(tmp_path, USER, 3, 1, state(3))
    assert read_client_state(tmp_path, USER, 5, 3) == state(3)


def test_a_round_that_is_repeated_begins_with_the_state_before_it(tmp_path: Path) -> None:
    write_client_state(tmp_path, USER, 1, -1, state(1))
    write_client_state(tmp_path, USER, 3, 1, state(3))
    assert read_client_state(tmp_path, USER, 3, 1) == state(1)
    write_client_state(tmp_path, USER, 3, 1, state(4))
    assert read_client_state(tmp_path, USER, 6, 3) == state(4)


def test_the_state_of_a_round_that_was_not_counted_never_comes_back(tmp_path: Path) -> None:
    write_client_state(tmp_path, USER, 1, -1, state(1))
    write_client_state(tmp_path, USER, 3, 1, state(3))  # rejected
    assert read_client_state(tmp_path, USER, 5, 1) == state(1)  # keeps nothing new, and is counted
    assert read_client_state(tmp_path, USER, 7, 5) == state(1)
