"""What is settled before a run: the method, checked; what depends on this machine and folder; tensors to start from."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

from configs.errors import InputError
from configs.load import read_resolved
from configs.schema import RunConfig
from fl_clients.backbone.activation_store import activation_folder
from fl_clients.backbone.load import BUILT_IN, resolve_precision
from fl_clients.lamp.select_users import UserTable
from fl_clients.lamp.tasks import find_task
from fl_server.record.schema import RunRecord, read_run
from strategies.aggregation.robust import POOLING
from strategies.method import BackboneShape, Method, Tensors, load_method


def build_method(config: RunConfig, shape: BackboneShape, import_path: Sequence[str] = ()) -> Method:
    """Build a config's method and have it check itself against the backbone.

    Args:
        config: Names the method.
        shape: The backbone's.
        import_path: Folders to import methods from, beside what is installed.

    Raises:
        InputError: No such task, the method cannot be loaded, or a setting does not fit.
    """
    find_task(config.task)
    try:
        method = load_method(config.method, config.method_values(), config.settings, import_path)
        method.check(shape)
        pooling = config.robust.rule in POOLING and method.first_round is not None
        if pooling and method.server_aggregator(method.server_init(shape), 1).per_user:
            raise ValueError(f"robust.rule='{config.robust.rule}': {method.name} keeps clients' updates apart")
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None
    return method


def method_digest(method: Method) -> dict[str, str]:
    """Return a digest of the file that somebody's own method is in, by its name; of fedperfit's methods nothing."""
    module = type(method).__module__
    file = getattr(sys.modules[module], "__file__", None)  # a notebook has none
    if module.startswith("strategies.") or file is None:
        return {}
    return {Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest()}


def find_changed_method(code: Mapping[str, str], record: RunRecord) -> str | None:
    """Say which file of a user's own method (`method_digest`) has changed since a record's run began; None if none."""
    changed = [file for file, digest in code.items() if record.versions.get(file) != digest]
    return f"{changed[0]} has changed since" if changed else None


def load_shared(record: Path, method: Method, config: RunConfig) -> Tensors:
    """Return the shared tensors of a completed run of the same method on the same backbone.

    Raises:
        InputError: They would not fit.
    """
    run = read_run(record)
    if run.status != "completed":
        raise InputError(f"start_from: {record} did not complete ({run.status})")
    theirs = read_resolved(record / "config.toml")
    for key, ours, other in (
        ("method", method.name, run.method),
        ("backbone", config.backbone, theirs.backbone),
        ("settings of the method", _fitting(config), _fitting(theirs)),
    ):
        if ours != other:
            raise InputError(f"start_from: {record} does not fit: {key} is {other!r} there, {ours!r} here")
    return load_file(record / "shared.safetensors")


def check_unseen(config: RunConfig, users: UserTable) -> None:
    """Refuse target users who trained the shared tensors that a run starts from, unless `users.overlap` says so.

    Users are told by their ids: the same synthetic people in every run of a task with a seed, and real ones whatever
    file they come from. Those of real devices are known by numbers alone, which tell nothing.

    Args:
        config: Of the run; with `start_from`.
        users: Its users.

    Raises:
        InputError: Names them.
    """
    origin = Path(config.start_from)
    while (theirs := read_resolved(origin / "config.toml")).start_from:
        origin = Path(theirs.start_from)
    synthetic = config.users.source == "synthetic", theirs.users.source == "synthetic"
    same_people = config.task == theirs.task and synthetic[0] == synthetic[1]
    if config.users.overlap or not same_people or read_run(origin).users.source == "devices":
        return
    trained = set(_user_ids(origin)[: theirs.users.collective])
    seen = [user_id for user_id in _user_ids(users.folder)[config.users.collective :] if user_id in trained]
    if seen:
        some = ", ".join(seen[:5]) + (", …" if len(seen) > 5 else "")
        raise InputError(
            f"start_from: {len(seen)} of {config.users.target} target users were collective users of {origin}: {some}; "
            "leave them out by users.reserved or users.select, or set users.overlap=true if that is meant"
        )


def _user_ids(folder: Path) -> list[str]:
    """The users of a record or a table by their partitions, collective users first."""
    ids: list[str] = pq.read_table(folder / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    return ids


def _fitting(config: RunConfig) -> dict[str, Any]:
    """The values that decide which tensors a method has and what they mean, and the seed that starts derive from."""
    return {key: value for key, value in config.method_values().items() if key != "rounds"} | config.settings


def _as_recorded(path: str) -> str:
    """A path as records tell it: relative if it lies below the current folder, so that they fit another checkout."""
    full, here = Path(path).expanduser().resolve(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)


def resolve(config: RunConfig) -> RunConfig:
    """Settle what depends on this machine and folder: clients run elsewhere and must not settle it differently."""
    backbone = Path(config.backbone).expanduser()
    source = config.users.source
    users = config.users.model_copy(update={"source": source if source == "synthetic" else _as_recorded(source)})
    return config.model_copy(
        update={
            "start_from": _as_recorded(config.start_from) if config.start_from else "",
            "backbone": config.backbone
            if config.backbone in BUILT_IN or not backbone.is_dir()
            else str(backbone.resolve()),
            "users": users,
            "precision": resolve_precision(config.precision, config.partitions.gpus > 0),
            "activations_mb": config.activations_mb if activation_folder() else 0,
        }
    )
