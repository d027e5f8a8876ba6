"""What a client keeps on its disk, one safetensors file per user: private tensors, and what it kept from its turns."""

from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from configs.files import write_atomic
from strategies.method import Tensors


def private_path(folder: Path, partition: int) -> Path:
    """Return a user's file; partitions are numbers, so no user id ever becomes a path."""
    return folder / f"{int(partition)}.safetensors"


def write_private(folder: Path, partition: int, tensors: Tensors) -> None:
    """Write a user's private tensors: whole or not at all, readable by the owner alone.

    Raises:
        ValueError: A tensor's name begins neither with `private_` nor with `kept_`.
    """
    _write(private_path(folder, partition), tensors)


def write_client_state(folder: Path, partition: int, round_number: int, last_turn: int, tensors: Tensors) -> None:
    """Write what a collective user keeps from a round's turn, as `write_private` does.

    What it began with stays: the server may be killed and do the round again, or leave this turn out.

    Args:
        folder: The private store.
        partition: Whose.
        round_number: The turn's.
        last_turn: As in `read_client_state`; turns before that one are over.
        tensors: What is kept.
    """
    _write(folder / f"{int(partition)}.round{round_number}.safetensors", tensors)
    turns = _turns(folder, partition)
    for older in sorted(turn for turn in turns if turn <= last_turn)[:-1]:
        turns[older].unlink()


def read_client_state(folder: Path, partition: int, last_turn: int) -> Tensors:
    """Return what a user has kept; empty if nothing.

    Args:
        folder: The private store.
        partition: Whose.
        last_turn: The round of the user's last turn that the server took, −1 if none; what later turns kept that were
            late, lost, rejected or cut short counts for nothing, here as there.
    """
    turns = _turns(folder, partition)
    counted = [turn for turn in turns if turn <= last_turn]
    return load_file(turns[max(counted)]) if counted else {}


def _turns(folder: Path, partition: int) -> dict[int, Path]:
    paths = folder.glob(f"{int(partition)}.round*.safetensors")
    return {int(path.name.split(".")[1].removeprefix("round")): path for path in paths}


def _write(path: Path, tensors: Tensors) -> None:
    for name in tensors:
        if not name.startswith(("private_", "kept_")):
            raise ValueError(f"tensor '{name}' is not private: names in the private store begin with private_ or kept_")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    write_atomic(path, partial(save_file, contiguous), private=True)
