"""One simulation, from a config to a finished run record."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from configs.errors import InputError, RunFailed
from configs.load import read_resolved, write_config
from configs.paths import cache_dir
from configs.schema import RunConfig
from fl_clients.backbone import read_shape
from fl_clients.lamp.store import UserTable, build_table
from fl_server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fl_server.ledger import total_bytes
from fl_server.records import (
    OraclePart,
    ParamsPart,
    RunRecord,
    UsersPart,
    append_line,
    begin_again,
    clean,
    end_line,
    gather,
    read_run,
    write_run,
)
from simulations import plots
from simulations.launch import end_leftovers, launch
from simulations.prepare import build_method, resolve, take_shared
from strategies.method import BackboneShape, Method

_PACKAGES = ("fedperfit", "flwr", "ray", "torch", "transformers", "numpy")


def simulate(
    config: RunConfig,
    name: str | None = None,
    results: Path = Path("results"),
    overwrite: bool = False,
    import_path: list[str] | None = None,
    watch: Callable[[Path], None] = lambda _folder: None,
) -> RunRecord:
    """Run one simulation and return its record.

    Everything that can be wrong with the command, the config, the data or the backbone is found before the run
    record is made.

    Args:
        config: What to run.
        name: The record's folder under `results`; by default method, task, seed and time.
        results: Where run records go.
        overwrite: Replace a record of that name.
        import_path: Folders to import methods from, beside what is installed.
        watch: Called with the record's folder while the run goes on, and once at the end.

    Raises:
        InputError: Something asked for is wrong; nothing was written.
        RunFailed: The run did not complete; the record says so.
        KeyboardInterrupt: Interrupted; every child has ended and the record says `cancelled`.
    """
    import_path = import_path or []
    shape = read_shape(config.backbone)
    method = build_method(config, shape, import_path)
    asked, config = config, resolve(config)
    state = method.server_init(shape)
    shared = method.server_send(state, None)
    if config.start_from:
        state = shared = take_shared(Path(config.start_from), method, config)
    name = name or _default_name(method, config)
    folder = _claim(results, name, overwrite)
    users = build_table(config)
    with _held(folder):
        _claim(results, name, overwrite)  # another command may have been quicker
        end_leftovers(folder)
        _start_record(folder, config, method, shape, users)
        save_file(shared, folder / "shared.safetensors")
        save_checkpoint(folder, Checkpoint(import_path=[str(Path(each).resolve()) for each in import_path]), state)
        if asked.activations_mb and not config.activations_mb:
            text = f"{cache_dir()} cannot be written: hidden states are computed anew each time"
            append_line(folder / "events.jsonl", {"event": "note", "text": text})
        return _run(folder, config, users, import_path, watch)


def resume(
    name: str, results: Path = Path("results"), watch: Callable[[Path], None] = lambda _folder: None
) -> RunRecord:
    """Take up again a run that did not complete, from its last checkpoint; the outcome is that of an undisturbed run.

    Args:
        name: The record's, or its path below `results`.
        results: Where it is.
        watch: As in `simulate`.

    Raises:
        InputError: There is no such record, it has completed or is being run, or its users are not there any more.
        RunFailed: The run did not complete this time either.
        KeyboardInterrupt: As in `simulate`.
    """
    folder = (results.expanduser() / name).resolve()
    read_run(folder)
    with _held(folder):
        # What is left running may still write, and even complete the run.
        end_leftovers(folder)
        record = read_run(folder)
        if record.status == "completed" and (folder / "plots").is_dir():
            raise InputError(f"--resume {name}: this run has completed")
        if record.status == "completed":
            return _finish(folder, watch)
        checkpoint, _ = load_checkpoint(folder)
        config = read_resolved(folder / "config.toml")
        build_method(config, read_shape(config.backbone), checkpoint.import_path)
        users = build_table(config)
        if users.sha256 != record.users.data_sha256:
            raise InputError(f"--resume {name}: the data of {config.users.source} have changed since the run began")
        for lines in ("events.jsonl", "errors.jsonl"):
            end_line(folder / lines)
        begin_again(folder)
        return _run(folder, config, users, checkpoint.import_path, watch)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other commands from working in a record; the lock stands beside it, since the record may be replaced."""
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: another command works in it") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _run(
    folder: Path, config: RunConfig, users: UserTable, import_path: list[str], watch: Callable[[Path], None]
) -> RunRecord:
    """Run what the checkpoint leaves to do, and close the record."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.partitions.cpus_per_client)
    try:
        launch(config, folder, users.folder, import_path, lambda: watch(folder))
    except KeyboardInterrupt:
        if (folder / "run.json").is_file():
            _end(folder, "cancelled", "interrupted")
        raise
    except OSError as error:
        _end(folder, "failed", str(error))
        raise RunFailed(f"{error}; `--resume {folder.name}` goes on once that is mended") from None
    except BaseException as error:
        if (folder / "run.json").is_file():
            _end(folder, "failed", str(error) or repr(error))
        raise
    finally:
        torch.set_num_threads(threads)
    record = read_run(folder)
    if record.status == "running":
        record = _end(folder, "failed", f"the run ended without a word; see {folder / 'engine.log'}")
    if record.status != "completed":
        watch(folder)
        _gather_if_possible(folder)
        raise RunFailed(record.error or record.status)
    return _finish(folder, watch)


def _finish(folder: Path, watch: Callable[[Path], None]) -> RunRecord:
    """Tidy a completed record and draw its plots."""
    clean(folder)
    watch(folder)
    record = read_run(folder)
    (folder / "engine.log").unlink(missing_ok=True)
    plots.draw(folder)
    return record


def _default_name(method: Method, config: RunConfig) -> str:
    return f"{method.name}-{config.task}-seed{config.seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def claim_folder(results: Path, name: str) -> Path:
    """Return the folder `name` under `results`, which can be written; it is not made yet.

    Raises:
        InputError: The name or `results` will not do.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"--name {name!r}: letters, digits, '.', '_' and '-' make a name")
    folder = results.expanduser().resolve() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--results {results}: cannot be made: {error.strerror}") from None
    if not os.access(folder.parent, os.W_OK):
        raise InputError(f"--results {results}: not writable")
    return folder


def _claim(results: Path, name: str, overwrite: bool) -> Path:
    """Return the record's folder, checked but not made yet."""
    folder = claim_folder(results, name)
    if folder.exists() and not overwrite:
        raise InputError(f"--name {name}: {folder} exists; --overwrite replaces it")
    if folder.exists() and not (folder / "run.json").is_file():
        raise InputError(f"--name {name}: {folder} is not a run record, so --overwrite leaves it alone")
    return folder


def _start_record(folder: Path, config: RunConfig, method: Method, shape: BackboneShape, users: UserTable) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f"--results {folder.parent}: not writable: {error.strerror}") from None
    (folder / "private").mkdir(mode=0o700)
    shutil.copyfile(users.folder / "users.parquet", folder / "users.parquet")
    write_config(config, folder / "config.toml")
    record = RunRecord(
        name=folder.name,
        method=method.name,
        task=config.task,
        backbone=config.backbone,
        seed=config.seed,
        users=UsersPart(
            collective=config.users.collective,
            target=config.users.target,
            data_sha256=users.sha256,
            source=users.source,
            empty_histories=users.empty_histories,
            leaks=users.leaks,
            skipped=users.skipped,
        ),
        oracle=OraclePart(**asdict(users.oracle)) if users.oracle else None,
        params=ParamsPart(
            shared=method.shared_parameters(shape),
            private=method.private_parameters(shape),
            backbone=shape.parameters,
        ),
        versions={"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
        git=_git(),
    )
    write_run(folder, record)


def _end(folder: Path, status: Literal["failed", "cancelled"], error: str) -> RunRecord:
    """Close the record of a run that did not complete, keeping what was recorded; there may be none yet."""
    record = read_run(folder)
    if record.status == "running":
        record.status, record.error = status, error
        with suppress(OSError):  # on a full disk even this may not go; `--resume` takes a running record too
            write_run(folder, record)
            append_line(folder / "events.jsonl", {"event": status, "error": error})
            _gather_if_possible(folder)
            if (folder / "ledger.parquet").is_file():
                record.bytes = total_bytes(folder)
                write_run(folder, record)
    return record


def _gather_if_possible(folder: Path) -> None:
    """Make what was recorded until a run broke off readable; its parts stay, so nothing is lost if that fails."""
    with suppress(OSError):
        gather(folder)


def _git() -> dict[str, str | bool | None]:
    """The commit of the checkout fedperfit runs from; nothing where it is installed from a package."""
    root = Path(__file__).parents[1]
    with suppress(OSError, subprocess.CalledProcessError):

        def git(*words: str) -> str:
            command = ["git", "-C", str(root), *words]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        if Path(git("rev-parse", "--show-toplevel")).resolve() == root.resolve():
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return {"commit": None, "dirty": None}
