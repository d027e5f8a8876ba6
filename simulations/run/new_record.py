"""Creates the record of a new run, after checking everything that can be checked before the run."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from configs.errors import InputError
from configs.files import append_line
from configs.import_path import ROOT
from configs.load import write_config
from configs.paths import USERS_LINK, cache_dir
from configs.schema import RunConfig
from fl_clients.backbone.builtin import EMBEDDERS, fetch
from fl_clients.backbone.load import backbone_digest, read_shape
from fl_clients.lamp.select_users import UserTable, build_table
from fl_server.record.checkpoint import Checkpoint, save_checkpoint
from fl_server.record.folder import RunFolder
from fl_server.record.schema import OraclePart, ParamsPart, RunRecord, UsersPart, read_run, write_run
from simulations.engines.ray_engine import end_leftovers
from simulations.run.folders import claim_folder
from simulations.run.preflight import build_method, exchange_keys, method_digest, resolve
from simulations.run.starting_run import check_unseen, load_shared
from strategies.method import BackboneShape, Method

_PACKAGES = ("fedperfit", "flwr", "ray", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class NewRecord:
    """A newly created record and the config of its run."""

    folder: Path
    config: RunConfig
    """The resolved config."""


@contextmanager
def new_record(
    config: RunConfig,
    name: str | None,
    results: Path,
    overwrite: bool,
    import_path: Sequence[str],
    real: bool = False,
) -> Iterator[NewRecord]:
    """Check all inputs, create a run's record and hold its lock.

    Args:
        config: What to run.
        name: The record's folder under `results`; by default method, task, seed and time.
        results: Where run records go.
        overwrite: Replace a record of that name.
        import_path: Folders to import methods from, besides the installed packages.
        real: The users' data are on real devices, not on this machine.

    Raises:
        InputError: An input is invalid; nothing was written.
    """
    shape = read_shape(config.backbone)
    method = build_method(config, shape, import_path)
    requested, config = config, resolve(config)
    _fetch_embedder(method)
    state = method.server_init(shape)
    shared = method.server_send(state, None)
    if config.start_from:
        state = shared = load_shared(Path(config.start_from), method, config)
    name = name or _default_name(method, config)
    folder = _claim(results, name, overwrite)
    if config.start_from and Path(config.start_from).resolve() == folder:
        raise InputError(f"start_from={config.start_from}: this run would be replaced", field="name", value=name)
    users = None if real else build_table(config)
    if users and config.start_from:
        check_unseen(config, users)
    with RunFolder(folder).lock():
        _claim(results, name, overwrite)  # another command may have created it meanwhile
        end_leftovers(folder)
        _start_record(folder, config, method, shape, users)
        save_file(shared, folder / "shared.safetensors")
        paths = [str(Path(path).resolve()) for path in import_path]
        begun = Checkpoint(import_path=paths, started_in=str(Path.cwd()), exchange=exchange_keys(config))
        save_checkpoint(folder, begun, state)
        if requested.activations_mb and not config.activations_mb:
            text = f"{cache_dir()} is not writable: hidden states are recomputed each time"
            append_line(folder / "events.jsonl", {"event": "note", "text": text})
        if users:
            for text in users.notes:
                append_line(folder / "events.jsonl", {"event": "note", "text": text})
            link_users(folder, users)
        yield NewRecord(folder, config)


def link_users(folder: Path, users: UserTable) -> None:
    """Link a run's user table from its record, where clients find it."""
    link = folder / USERS_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(users.folder)


def _fetch_embedder(method: Method) -> None:
    """Fetch what a method embeds texts with, if it is not computed, before work is spent."""
    if method.embedder in EMBEDDERS:
        try:
            fetch(method.embedder)
        except InputError as error:
            why = str(error).removeprefix("backbone: ")
            message = f"settings.embedder='{method.embedder}': {why}; 'backbone' needs no download"
            raise InputError(message) from None


def _default_name(method: Method, config: RunConfig) -> str:
    return f"{method.name}-{config.task}-seed{config.seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _claim(results: Path, name: str, overwrite: bool) -> Path:
    """Return the record's folder, checked but not created yet."""
    folder = claim_folder(results, name)
    if folder.exists() and not overwrite:
        raise InputError(
            f"{folder} already exists; choose another name, or add --overwrite (from Python, overwrite=True)",
            field="name",
            value=name,
        )
    if folder.exists() and not (folder / "run.json").is_file():
        raise InputError(f"{folder} is not a run record, so `overwrite` does not replace it", field="name", value=name)
    return folder


def _start_record(
    folder: Path, config: RunConfig, method: Method, shape: BackboneShape, users: UserTable | None
) -> None:
    users_part = UsersPart(
        collective=config.users.collective, target=config.users.target, data_sha256="", source="devices"
    )
    if users:
        kept = ("source", "questions", "empty_histories", "leaks", "skipped", "joined")
        sizes = {key: getattr(users, key) for key in kept}
        users_part = users_part.model_copy(update={"data_sha256": users.sha256, **sizes})
    record = RunRecord(
        name=folder.name,
        method=method.name,
        task=config.task,
        backbone=config.backbone,
        backbone_sha256=backbone_digest(config.backbone),
        seed=config.seed,
        users=users_part,
        oracle=OraclePart(**asdict(users.oracle)) if users and users.oracle else None,
        params=ParamsPart(
            shared=method.shared_parameters(shape),
            private=method.private_parameters(shape),
            backbone=shape.parameters,
        ),
        privacy=read_run(Path(config.start_from)).privacy if config.start_from else None,
        versions={"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES}
        | method_digest(method),
        git=_git(),
    )
    # If this is killed at any point, the folder is a whole run record or missing; both can be replaced.
    scratch, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        # Real users' texts are in predictions and errors, and their ids in tables.
        scratch.mkdir(mode=0o777 if config.users.source == "synthetic" else 0o700)
    except OSError as error:
        raise InputError(f"not writable: {error.strerror}", field="results", value=folder.parent) from None
    (scratch / "private").mkdir(mode=0o700)
    if users:
        shutil.copyfile(users.folder / "users.parquet", scratch / "users.parquet")
    write_config(config, scratch / "config.toml")
    write_run(scratch, record)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _git() -> dict[str, str | bool | None]:
    """Return the commit of the checkout that fedperfit runs from; None values if it is an installed package."""
    with suppress(OSError, subprocess.CalledProcessError):

        def git(*args: str) -> str:
            command = ["git", "-C", str(ROOT), *args]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            # Other runs' records do not change what this one computes.
            changed = git("status", "--porcelain", "--", ".", ":(exclude)results")
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    return {"commit": None, "dirty": None}
