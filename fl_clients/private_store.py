"""A client's private store on disk: safetensors files with a user's private tensors and its state between rounds."""

from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from configs.files import write_atomic
from strategies.method import Tensors


def private_path(folder: Path, partition: int) -> Path:
    """Return the path of a user's file; it is named by partition id, so no user id ever becomes a path."""
    return folder / f"{int(partition)}.safetensors"


def write_private(folder: Path, partition: int, tensors: Tensors) -> None:
    """Write a user's private tensors atomically, readable by the owner only.

    Raises:
        ValueError: A tensor's name starts with neither `private_` nor `kept_`.
    """
    _write(private_path(folder, partition), tensors)


def write_client_state(folder: Path, partition: int, round_number: int, last_turn: int, tensors: Tensors) -> None:
    """Write a collective user's state after a round, as `write_private` does.

    The state before the round stays: the server may be killed and repeat the round, or not count this update.

    Args:
        folder: The private store.
        partition: The user's partition id.
        round_number: The round.
        last_turn: As in `read_client_state`; states older than the one it returns are deleted.
        tensors: The state.
    """
    _write(_states_folder(folder, partition) / f"{round_number}.safetensors", tensors)
    states = _states(folder, partition)
    for older in sorted(number for number in states if number <= last_turn)[:-1]:
        states[older].unlink()


def read_client_state(folder: Path, partition: int, round_number: int, last_turn: int) -> Tensors:
    """Return a user's state between rounds; empty if there is none.

    States of rounds between, whose updates were late, lost, rejected or interrupted, are deleted: a later round may
    count without a state of its own, and they must not be taken for that of a round before it.

    Args:
        folder: The private store.
        partition: The user's partition id.
        round_number: The round that begins.
        last_turn: The last round in which the server counted the user's update, −1 if none.
    """
    states = _states(folder, partition)
    for number in states:
        if last_turn < number < round_number:
            states[number].unlink(missing_ok=True)
    counted = [number for number in states if number <= last_turn]
    return load_file(states[max(counted)]) if counted else {}


def _states(folder: Path, partition: int) -> dict[int, Path]:
    # A folder per user: one folder of all users' states would be searched at every visit.
    return {int(path.stem): path for path in _states_folder(folder, partition).glob("*.safetensors")}


def _states_folder(folder: Path, partition: int) -> Path:
    return folder / f"{int(partition)}.rounds"


def _write(path: Path, tensors: Tensors) -> None:
    for name in tensors:
        if not name.startswith(("private_", "kept_")):
            raise ValueError(f"tensor '{name}' is not private: names in the private store begin with private_ or kept_")
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    write_atomic(path, partial(save_file, contiguous), private=True)
