"""Which run of a plan is there already: completed, or interrupted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from configs.errors import InputError
from configs.load import read_resolved
from fl_server.record.checkpoint import load_checkpoint
from fl_server.record.schema import RunRecord, read_run
from simulations.experiments.comparable import check_tables, first_difference
from simulations.experiments.plan import Planned
from simulations.run.preflight import find_changed_method, resolve


def started_from(planned: Planned, place: Path) -> Planned:
    """Return a run that begins with the shared tensors of the one in `place`, in place of stage 1."""
    return replace(planned, config=resolve(planned.config.model_copy(update={"start_from": str(place)})))


def find(planned: Planned, folder: Path) -> Path | None:
    """Return a completed record of the same config and users: in the comparison's folder, else anywhere beside it.

    Raises:
        InputError: The one in the folder is of another config, is damaged, or lacks what it is wanted for. It is not
            overwritten.
    """
    own = folder / planned.name
    start = _start(planned)
    places = [own, *sorted(folder.parent.glob("*/")), *sorted(folder.parent.glob("*/*/"))]
    bare = False
    for place in places:
        if not (place / "run.json").is_file() or not (place / "config.toml").is_file():
            continue
        try:
            record = read_run(place)
            other = _unlike(planned, place, record, start)
        except InputError:
            continue  # of another version
        if record.status != "completed":
            continue
        if place == own and other:
            raise InputError(f"{own} is of another config ({other}); choose another --name, or delete it")
        if other:
            continue
        if planned.starts_others and not (place / "shared.safetensors").is_file():
            bare = bare or place == own
            continue
        try:
            check_tables(place)
        except InputError:
            if place == own:
                raise
            continue
        return place
    if bare:
        raise InputError(f"{own}: others start from its shared tensors, which were not kept; choose another --name")
    return None


def _start(planned: Planned) -> str | None:
    """The digest of the shared tensors that a run shall start from."""
    return read_run(Path(planned.config.start_from)).shared_sha256 if planned.config.start_from else None


def _unlike(planned: Planned, place: Path, record: RunRecord, start: str | None) -> str | None:
    """Say in what a record is not the planned run; `start` is the digest of the tensors that it shall start from."""
    besides = ["users.source"] if planned.needs_midway else ["users.source", "evaluate.every"]
    there = read_resolved(place / "config.toml")
    if start and there.start_from:
        # Where the start lies makes no number. What starts from a run keeps its shared tensors as they are.
        besides.append("start_from")
    if other := first_difference(there, planned.config, besides):
        return other
    if record.users.data_sha256 != planned.data_sha256:
        return "its users have changed since"
    if start and record.status == "completed" and record.shared_sha256 != start:
        return f"it started from other shared tensors than {planned.config.start_from} has"
    return find_changed_method(planned.code, record)


def interrupted(planned: Planned, place: Path, log: Callable[[str], None]) -> bool:
    """Tell whether a run was interrupted there that can be taken up again as the planned one.

    One that was interrupted before its first round, with other code of somebody's own or from a start that is not the
    same any more, is begun anew.

    Raises:
        InputError: Rounds of another config were trained there; they are not overwritten.
    """
    try:
        record, (checkpoint, state) = read_run(place), load_checkpoint(place)
        if record.status == "completed" or not checkpoint.parts:
            return False
        if changed := find_changed_method(planned.code, record):
            log(f"{place} was interrupted, and {changed}: begun anew")
            return False
        other = _unlike(planned, place, record, _start(planned))
    except InputError:
        return False
    if other and checkpoint.round is not None:
        why = f"was interrupted and is of another config ({other})"
        raise InputError(f"{place} {why}; choose another --name, or delete it")
    if planned.config.start_from and not other:
        start = load_file(Path(planned.config.start_from) / "shared.safetensors")
        return start.keys() == state.keys() and all(torch.equal(start[key], state[key]) for key in start)
    return other is None
