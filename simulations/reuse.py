"""Which run of a plan is there already: completed, or interrupted."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from configs.errors import InputError
from configs.load import read_resolved
from fl_server.checkpoint import load_checkpoint
from fl_server.records import read_run
from simulations.comparable import first_difference
from simulations.planning import Planned
from simulations.prepare import resolve


def started_from(planned: Planned, place: Path) -> Planned:
    """Return a run that begins with the shared tensors of the one in `place`, in place of stage 1."""
    return replace(planned, config=resolve(planned.config.model_copy(update={"start_from": str(place)})))


def find(planned: Planned, folder: Path) -> Path | None:
    """Return a completed record of the same config and users: in the comparison's folder, else anywhere beside it.

    Raises:
        InputError: The one in the folder is of another config, or lacks what it is wanted for; it is not overwritten.
    """
    own = folder / planned.name
    start = read_run(Path(planned.config.start_from)).shared_sha256 if planned.config.start_from else None
    places = [own, *sorted(folder.parent.glob("*/")), *sorted(folder.parent.glob("*/*/"))]
    bare = False
    for place in places:
        if not (place / "run.json").is_file() or not (place / "config.toml").is_file():
            continue
        try:
            record = read_run(place)
            there = read_resolved(place / "config.toml")
            besides = ["users.source"] if planned.looks else ["users.source", "evaluate.every"]
            if start and there.start_from:
                # Where the start lies makes no number. What starts from a run keeps its shared tensors as they are.
                besides.append("start_from")
            other = first_difference(there, planned.config, besides)
            if start and record.shared_sha256 != start:
                other = other or f"it started from other shared tensors than {planned.config.start_from} has"
        except InputError:
            continue  # of another version
        if record.users.data_sha256 != planned.data_sha256:
            other = other or "its users have changed since"
        for file, digest in planned.code.items():
            if record.versions.get(file) != digest:
                other = other or f"{file} has changed since"
        if record.status != "completed":
            continue
        if other is None and not (planned.starts_others and not (place / "shared.safetensors").is_file()):
            return place
        if place == own and other:
            raise InputError(f"{own} is of another config ({other}); choose another --name, or delete it")
        bare = bare or place == own
    if bare:
        raise InputError(f"{own}: others start from its shared tensors, which were not kept; choose another --name")
    return None


def began(planned: Planned, place: Path) -> bool:
    """Tell whether a run of this very config was interrupted there and can be taken up again."""
    try:
        record, (checkpoint, state) = read_run(place), load_checkpoint(place)
        other = first_difference(read_resolved(place / "config.toml"), planned.config)
    except InputError:
        return False
    same = other is None and record.users.data_sha256 == planned.data_sha256
    if same and planned.config.start_from:
        start = load_file(Path(planned.config.start_from) / "shared.safetensors")
        same = start.keys() == state.keys() and all(torch.equal(start[key], state[key]) for key in start)
    return same and record.status != "completed" and bool(checkpoint.parts)
