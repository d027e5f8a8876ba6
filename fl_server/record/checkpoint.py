"""The progress of a run, from which it can be resumed after its processes were killed.

Files are written under a temporary name and renamed, so a reader finds either the new checkpoint or the previous one.
Table parts written after a checkpoint belong to work that will be repeated, and are deleted when the tables are opened
again.
"""

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from configs.errors import InputError
from configs.files import write_atomic
from fl_server.record.schema import PrivacyPart
from strategies.method import Tensors

_FOLDER = ".checkpoint"


class Checkpoint(BaseModel):
    """What a run has completed."""

    model_config = ConfigDict(extra="forbid")

    import_path: list[str] = []
    """Folders that the method may be imported from, besides installed packages."""
    started_in: str = ""
    """Base folder of relative paths in the run's config."""
    exchange: dict[str, Any] = {}
    """The config's `wire`, `server`, `privacy` and `secure`, which its tensors depend on; empty in records of older
    versions."""
    round: int | None = None
    """The last completed round of stage 1, whose state is stored; None before the first."""
    parts: dict[str, int] = {}
    """Number of completed parts by table; empty before the roll call."""
    last_turns: dict[int, int] = {}
    """The last round in which a collective user's update was averaged, by user: its state of that round is valid."""
    metrics_base: dict[str, float] | None = None
    """The bare backbone's metrics, once it has been evaluated."""
    baselines: dict[str, dict[str, float]] = {}
    """The metrics of trivial answers, by baseline."""
    introduced: bool = False
    """The target users have taken part in the opening (`Method.introduces`)."""
    controls: dict[str, dict[str, float]] = {}
    """The metrics of what target users could be sent instead (`Method.server_controls`), by control."""
    privacy: PrivacyPart | None = None
    """What stage 1 has spent."""
    wall_s: float = 0.0
    """Seconds that the run has taken so far."""
    state_file: str = ""
    """The server's tensors at this point; every checkpoint has a file of its own, so that the previous one stays whole
    until it is replaced."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, state: Tensors) -> Checkpoint:
    """Replace the previous checkpoint.

    Args:
        folder: The run record.
        checkpoint: What the run has completed, with the previous checkpoint's `state_file`.
        state: The server's tensors at that point.

    Returns:
        The checkpoint as written.
    """
    home = folder / _FOLDER
    home.mkdir(exist_ok=True)
    path = home / ("state-b.safetensors" if checkpoint.state_file == "state-a.safetensors" else "state-a.safetensors")
    written = checkpoint.model_copy(update={"state_file": path.name})
    write_atomic(path, partial(save_file, state))
    write_atomic(home / "checkpoint.json", written.model_dump_json())
    for old in home.glob("state-*.safetensors"):
        if old != path:
            old.unlink()
    return written


def has_checkpoint(folder: Path) -> bool:
    """Tell whether a run has written a checkpoint; a completed one has none any more."""
    return (folder / _FOLDER / "checkpoint.json").is_file()


def load_checkpoint(folder: Path) -> tuple[Checkpoint, Tensors]:
    """Return a run's checkpoint and the server's state.

    Raises:
        InputError: The run has no readable checkpoint.
    """
    home = folder / _FOLDER
    try:
        checkpoint = Checkpoint.model_validate_json((home / "checkpoint.json").read_text(encoding="utf-8"))
        if not checkpoint.state_file:
            raise ValueError("an older version began this run; run it anew")
        # In memory of their own, since a product of matrices may round differently where numbers lie as in a file.
        state = {name: value.clone() for name, value in load_file(home / checkpoint.state_file).items()}
        return checkpoint, state
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: no checkpoint to resume from: {error}") from None
