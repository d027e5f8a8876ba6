"""Find runs of a plan that are already completed, or interrupted and resumable."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from configs.errors import InputError
from fl_clients.backbone.load import backbone_digest
from fl_server.record.checkpoint import has_checkpoint, load_checkpoint
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord, read_run
from simulations.experiments.comparable import first_difference, without_effect
from simulations.experiments.plan import Planned
from simulations.run.preflight import find_changed_method, resolve


def started_from(planned: Planned, place: Path) -> Planned:
    """Return the run with stage 1 replaced by the shared tensors of the run in `place`."""
    return replace(planned, config=resolve(planned.config.model_copy(update={"start_from": str(place)})))


def find(planned: Planned, folder: Path) -> Path | None:
    """Return a completed record of the same config and users, from the comparison's folder or any folder next to it.

    Raises:
        InputError: The record in the comparison's folder has another config, is damaged, or lacks tensors that are
            needed. It is not overwritten.
    """
    destination = folder / planned.name
    start = _start(planned)
    places = [destination, *sorted(folder.parent.glob("*/")), *sorted(folder.parent.glob("*/*/"))]
    tensors_missing = False
    for place in places:
        if not RunFolder(place).is_record:
            continue
        try:
            record = read_run(place)
            other = _unlike(planned, place, record, start)
        except (InputError, OSError) as error:
            if place == destination:
                raise InputError(
                    f"{destination}: cannot be read ({error}); choose another name, or delete it"
                ) from None
            continue  # written by another version
        if record.status != "completed":
            continue
        if place == destination and other:
            raise InputError(f"{destination} has a different config ({other}); choose another name, or delete it")
        if other:
            continue
        if planned.starts_others and not RunFolder(place).shared.is_file():
            tensors_missing = tensors_missing or place == destination
            continue
        try:
            RunFolder(place).check_tables()
        except InputError:
            if place == destination:
                raise
            continue
        return place
    if tensors_missing:
        raise InputError(
            f"{destination}: other runs start from its shared tensors, which were not kept; choose another name"
        )
    return None


def _start(planned: Planned) -> str | None:
    """The digest of the shared tensors that the run starts from."""
    return read_run(Path(planned.config.start_from)).shared_sha256 if planned.config.start_from else None


def _unlike(planned: Planned, place: Path, record: RunRecord, start: str | None) -> str | None:
    """Describe how a record differs from the planned run; `start` is the digest of the tensors to start from."""
    ignored = without_effect(planned.config)
    if not planned.needs_midway:
        ignored.append("evaluate.every")
    config = RunFolder(place).config
    if start and config.start_from:
        # The location of `start_from` does not affect results; the digests of the tensors are compared below.
        ignored.append("start_from")
    if other := first_difference(config, planned.config, ignored):
        return other
    if record.users.data_sha256 != planned.data_sha256:
        return "its users have changed since"
    if record.backbone_sha256 and record.backbone_sha256 != backbone_digest(planned.config.backbone):
        return "its backbone has changed since"
    if start and record.status == "completed" and record.shared_sha256 != start:
        return f"it started from other shared tensors than those of {planned.config.start_from}"
    return find_changed_method(planned.code, record)


def interrupted(planned: Planned, place: Path, log: Callable[[str], None]) -> bool:
    """Tell whether `place` holds an interrupted run that can be resumed as the planned one.

    A run that stopped before its first round with another config, whose method's code has changed, or whose starting
    tensors have changed cannot be resumed and is run again.

    Raises:
        InputError: Rounds of another config were trained there, or its checkpoint cannot be read; nothing is
            overwritten.
    """
    if not RunFolder(place).is_record or not has_checkpoint(place):
        return False
    record, (checkpoint, state) = read_run(place), load_checkpoint(place)
    if record.status == "completed" or not checkpoint.parts:
        return False
    if changed := find_changed_method(planned.code, record):
        log(f"{place} was interrupted, but cannot be resumed ({changed}); running it again")
        return False
    other = _unlike(planned, place, record, _start(planned))
    if other and checkpoint.round is not None:
        reason = f"was interrupted and has a different config ({other})"
        raise InputError(f"{place} {reason}; choose another name, or delete it")
    if planned.config.start_from and not other:
        start = load_file(Path(planned.config.start_from) / "shared.safetensors")
        # The state also has what codecs keep, and what newcomers said when they were introduced.
        if any(key not in state or not torch.equal(value, state[key]) for key, value in start.items()):
            log(f"{place} was interrupted, but started from other tensors; running it again")
            return False
    return other is None
