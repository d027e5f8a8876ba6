"""The run that another one starts from: its shared tensors, and whether they fit."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import InputError
from configs.schema import RunConfig
from fl_clients.backbone.load import check_backbone
from fl_clients.lamp.select_users import UserTable
from fl_server.record.folder import RunFolder
from fl_server.record.schema import read_run
from fl_server.record.tensors import read_tensors
from strategies.method import Method, Tensors


def load_shared(record: Path, method: Method, config: RunConfig) -> Tensors:
    """Return the shared tensors of a completed run of the same method on the same backbone.

    Raises:
        InputError: The run did not complete, or its tensors do not fit.
    """
    run = read_run(record)
    if run.status != "completed":
        raise InputError(f"start_from: {record} did not complete ({run.status})")
    theirs = RunFolder(record).config
    mine, others = fitting(config, method), fitting(theirs, method)
    for key, ours, other in (
        ("method", method.name, run.method),
        ("backbone", config.backbone, theirs.backbone),
        *((key, mine.get(key), others.get(key)) for key in sorted({*mine, *others})),
    ):
        if ours != other:
            raise InputError(f"start_from: {record} does not fit: {key}: {other!r} in that run, {ours!r} in this one")
    for table, key, asked in (
        ("privacy", "kind", config.privacy.kind != "none"),
        ("secure", "aggregation", config.secure.aggregation),
    ):
        ours, other = getattr(config, table), getattr(theirs, table)
        if asked and ours != other:
            raise InputError(
                f"{table}.{key}={getattr(ours, key)!r}: stage 1 is that of {record}, which was trained otherwise"
            )
    try:
        check_backbone(config.backbone, run.backbone_sha256)
    except InputError as error:
        raise InputError(f"start_from: {record} does not fit: {error}") from None
    return read_tensors(RunFolder(record).shared)


def check_unseen(config: RunConfig, users: UserTable) -> None:
    """Refuse target users who trained the shared tensors that a run starts from, unless `users.overlap` is set.

    Users are identified by their ids. Synthetic users are the same in all runs with the same task and seed, real users
    in whatever file they come from. Users of real devices only have numbers, which cannot be compared.

    Args:
        config: The run's config, with `start_from`.
        users: The run's users.

    Raises:
        InputError: Some target users were collective users; the message names them.
    """
    origin = origin_of(Path(config.start_from))
    theirs = RunFolder(origin).config
    synthetic = config.users.source == "synthetic", theirs.users.source == "synthetic"
    comparable = config.task == theirs.task and synthetic[0] == synthetic[1]
    if config.users.overlap or not comparable or read_run(origin).users.source == "devices":
        return
    trained = set(_user_ids(origin)[: theirs.users.collective])
    seen = [user_id for user_id in _user_ids(users.folder)[config.users.collective :] if user_id in trained]
    if seen:
        listed = ", ".join(seen[:5]) + (", …" if len(seen) > 5 else "")
        raise InputError(
            f"start_from: {len(seen)} of {config.users.target} target users were collective users of {origin}: {listed}"
            "; exclude them with users.reserved or users.select, or set users.overlap=true if this is intended"
        )


def origin_of(record: Path) -> Path:
    """Return the record of the run that trained a run's shared tensors: its own, or the one it goes back to.

    Raises:
        InputError: A record on the way is not there any more, or the run goes back to itself.
    """
    passed = set[Path]()
    while start := RunFolder(record).config.start_from:
        if record.resolve() in passed:
            raise InputError(f"start_from: {record} starts from itself")
        passed.add(record.resolve())
        record = Path(start)
    return record


def _user_ids(folder: Path) -> list[str]:
    """Return the user ids of a record or a table by partition, collective users first."""
    ids: list[str] = pq.read_table(folder / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    return ids


def fitting(config: RunConfig, method: Method) -> dict[str, Any]:
    """Return by config key what determines a method's shared tensors, their meaning and their initial values."""
    values = {key.replace("rank_", "rank."): value for key, value in config.method_values().items() if key != "rounds"}
    values |= {f"settings.{key}": value for key, value in config.settings.items()}
    return {key: value for key, value in values.items() if key not in method.personal_keys}
