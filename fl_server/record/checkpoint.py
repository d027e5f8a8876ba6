"""Where a run stands, so that it can be taken up again whenever its processes were killed.

Everything is written beside and renamed, so that a reader finds a whole checkpoint or the one before. Table parts
written after a checkpoint belong to work that will be done again, and are left out when the tables are opened again.
"""

from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from configs.errors import InputError
from configs.files import write_atomic
from strategies.method import Tensors

_FOLDER = ".checkpoint"


class Checkpoint(BaseModel):
    """What is done."""

    model_config = ConfigDict(extra="forbid")

    import_path: list[str] = []
    """Where the method may be imported from, beside what is installed."""
    started_in: str = ""
    """The folder that relative paths in the run's config are meant from."""
    round: int | None = None
    """Last round of stage 1 whose state is the one kept; None before the first."""
    parts: dict[str, int] = {}
    """Parts of each table that belong to what is done; none before the roll call."""
    last_turns: dict[int, int] = {}
    """Round of each collective user's last turn that was averaged: what it keeps between turns counts from there."""
    metrics_base: dict[str, float] | None = None
    """The bare backbone's, once it has been evaluated."""
    wall_s: float = 0.0
    """Seconds the run had taken."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, state: Tensors) -> None:
    """Put a checkpoint in the place of the one before.

    Args:
        folder: The run record.
        checkpoint: What is done.
        state: The server's, after that.
    """
    home = folder / _FOLDER
    home.mkdir(exist_ok=True)
    path = _state_path(home, checkpoint)
    write_atomic(path, partial(save_file, state))
    write_atomic(home / "checkpoint.json", checkpoint.model_dump_json())
    for old in home.glob("state-*.safetensors"):
        if old != path:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[Checkpoint, Tensors]:
    """Return a run's checkpoint and the server's state.

    Raises:
        InputError: There is none.
    """
    home = folder / _FOLDER
    try:
        checkpoint = Checkpoint.model_validate_json((home / "checkpoint.json").read_text(encoding="utf-8"))
        return checkpoint, load_file(_state_path(home, checkpoint))
    except (OSError, ValidationError) as error:
        raise InputError(f"{folder}: nothing to go on from: {error}") from None


def _state_path(home: Path, checkpoint: Checkpoint) -> Path:
    done = "start" if checkpoint.round is None else str(checkpoint.round)
    return home / f"state-{done}.safetensors"
