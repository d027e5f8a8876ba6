"""One simulation, from a config to a finished run record."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from configs.errors import InputError, RunFailed
from configs.files import append_line
from configs.import_path import find_intruder, python_path_folders
from configs.paths import USERS_LINK, expand
from configs.schema import RunConfig
from fl_clients.backbone.load import check_backbone, read_shape
from fl_server.record.checkpoint import load_checkpoint
from fl_server.record.complete import keep_recorded
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord, finish_partial_line, mark_resumed, read_run, write_run
from fl_server.record.tables import clean
from simulations.engines.launch import launch
from simulations.engines.ray_cluster import check_cluster, cluster_address
from simulations.engines.ray_engine import end_leftovers
from simulations.run.catalogue import find_run
from simulations.run.new_record import link_users, new_record
from simulations.run.preflight import build_method, exchange_keys, find_changed_method, method_digest
from simulations.run.rebuild_users import rebuild_users
from simulations.run.synthetic_users import record_oracles


def simulate(
    config: RunConfig,
    name: str | None = None,
    results: Path | str = "results",
    overwrite: bool = False,
    import_path: list[str] | None = None,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> RunRecord:
    """Run one simulation and return its record.

    The command, config, data and backbone are checked before the run record is created.

    Args:
        config: What to run.
        name: The record's folder under `results`; by default method, task, seed and time.
        results: Where run records go.
        overwrite: Replace a record of that name.
        import_path: Folders to import methods from, besides the installed packages.
        on_progress: Called with the record's folder during the run, and once at the end.

    Raises:
        InputError: An input is invalid; nothing was written.
        RunFailed: The run did not complete; the record says why.
        KeyboardInterrupt: The run was interrupted; every child process has ended and the record says `cancelled`.
    """
    import_path, results = import_path or [], Path(results)
    _check_engine(config, results)
    with new_record(config, name, results, overwrite, import_path) as record:
        return _run(record.folder, record.config, import_path, on_progress)


def resume(
    name: str,
    results: Path | str = "results",
    on_progress: Callable[[Path], None] = lambda _folder: None,
    trust: bool = False,
) -> RunRecord:
    """Resume a run that did not complete from its last checkpoint; the result equals that of an uninterrupted run.

    Args:
        name: The record's name, its path below `results`, or its path.
        results: The folder of run records.
        on_progress: As in `simulate`.
        trust: Run the code of a method that the record imports from outside the current folder. A record is code.

    Raises:
        InputError: There is no such record, its run has completed or is running, its users, backbone or method have
            changed, or its method's code is not trusted.
        RunFailed: The run did not complete this time either.
        KeyboardInterrupt: As in `simulate`.
    """
    results = expand(results)
    folder = find_run(results, name).folder.resolve()
    with RunFolder(folder).lock():
        _check_own_files(folder)
        # Leftover processes may still write to the record, and even complete the run.
        end_leftovers(folder)
        record = read_run(folder)
        if record.status == "completed" and (folder / "plots").is_dir():
            raise InputError("this run has completed", field="name", value=name)
        if record.status == "completed":
            return finish(folder, on_progress)
        if record.users.source == "devices":
            raise InputError("a run of a real federation cannot be resumed", field="name", value=name)
        if next((folder / "private").glob("*.round*.safetensors"), None):
            why = "an older version began this run and kept clients' states elsewhere; run it anew"
            raise InputError(why, field="name", value=name)
        checkpoint, _ = load_checkpoint(folder)
        config = RunFolder(folder).config
        _check_exchange(config, checkpoint.exchange)
        if not trust:
            _check_trusted(config, checkpoint.import_path)
        _check_engine(config, results)
        check_backbone(config.backbone, record.backbone_sha256)
        method = build_method(config, read_shape(config.backbone), checkpoint.import_path)
        if changed := find_changed_method(method_digest(method), record):
            raise InputError(f"{changed} the run began", field="name", value=name)
        users = rebuild_users(RunFolder(folder), Path(checkpoint.started_in))
        for file in ("events.jsonl", "errors.jsonl"):
            finish_partial_line(folder / file)
        mark_resumed(folder)
        link_users(folder, users)
        return _run(folder, config, checkpoint.import_path, on_progress)


def _check_own_files(folder: Path) -> None:
    """Refuse a record with links or devices in it: resuming would write to, or empty, what they lead to."""
    for path in folder.rglob("*"):
        regular = path.is_dir() or path.is_file()
        if path.relative_to(folder) != Path(USERS_LINK) and (path.is_symlink() or not regular):
            raise InputError(f"{path}: expected a file or a folder of the record itself, not a link")


def _check_exchange(config: RunConfig, begun: dict[str, Any]) -> None:
    """Refuse other codecs or another server optimiser than those of the checkpoint's tensors."""
    now = exchange_keys(config)
    for key, value in begun.items():
        if now.get(key) != value:
            raise InputError(f"{key}={now.get(key)!r}: the run began with {value!r}, and cannot change it")


def _check_trusted(config: RunConfig, import_path: list[str]) -> None:
    """Refuse to import a method's code from a folder that only the record names."""
    if config.method.startswith("strategies."):
        return
    here = Path.cwd().resolve()
    if foreign := [folder for folder in import_path if not Path(folder).resolve().is_relative_to(here)]:
        raise InputError(
            f"this record would run the code of {config.method} from {foreign[0]}, which is not in the current folder; "
            "--trust (trust=True) if you know the record",
            field="name",
        )


def _check_engine(config: RunConfig, results: Path) -> None:
    """Refuse what would break a run's processes: another package of our name, a cluster that cannot be used."""
    if config.engine != "ray":
        return
    if intruder := find_intruder(python_path_folders()):
        name = intruder.parent.name if intruder.stem == "__init__" else intruder.stem
        raise InputError(
            f"PYTHONPATH: {intruder} would be imported in place of fedperfit's own {name}; "
            "rename it, or take its folder out of PYTHONPATH"
        )
    if address := cluster_address(config.ray.address):
        check_cluster(address, config.backbone, results)


def _run(folder: Path, config: RunConfig, import_path: list[str], on_progress: Callable[[Path], None]) -> RunRecord:
    """Run what remains after the checkpoint, and close the record."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.partitions.cpus_per_client)
    try:
        launch(config, folder, import_path, lambda: on_progress(folder))
    except KeyboardInterrupt:
        _end_if_there(folder, "cancelled", "interrupted")
        raise
    except OSError as error:
        _end_if_there(folder, "failed", str(error))
        raise RunFailed(f"{error}; fix this, then resume `{folder.name}`") from None
    except BaseException as error:
        _end_if_there(folder, "failed", str(error) or repr(error))
        raise
    finally:
        torch.set_num_threads(threads)
    record = read_run(folder)
    if record.status == "running":
        record = _end(folder, "failed", f"the run ended without an error message; see {folder / 'engine.log'}")
    if record.status != "completed":
        on_progress(folder)
        _keep_recorded_if_possible(folder)
        raise RunFailed(record.error or record.status)
    return finish(folder, on_progress)


def finish(folder: Path, on_progress: Callable[[Path], None] = lambda _folder: None) -> RunRecord:
    """Add the oracles of synthetic users to a completed record, clean it up, and draw its plots."""
    record_oracles(folder)
    clean(folder)
    on_progress(folder)
    record = read_run(folder)
    (folder / "engine.log").unlink(missing_ok=True)
    from simulations.display import plots  # Matplotlib loads after the run, not before it

    try:
        plots.draw(folder)
    except OSError as error:
        append_line(folder / "events.jsonl", {"event": "note", "text": f"the plots cannot be drawn: {error}"})
    return record


def _end(folder: Path, status: Literal["failed", "cancelled"], error: str) -> RunRecord:
    """Close the record of a run that did not complete, keeping what was recorded so far."""
    record = read_run(folder)
    if record.status == "running":
        record.status, record.error = status, error
        with suppress(OSError):  # a full disk may prevent even this; `--resume` also accepts a running record
            write_run(folder, record)
            append_line(folder / "events.jsonl", {"event": status, "error": error})
            _keep_recorded_if_possible(folder)
    return record


def _end_if_there(folder: Path, status: Literal["failed", "cancelled"], error: str) -> None:
    """Close the record, unless its folder is gone, which must not hide why the run ended."""
    if (folder / "run.json").is_file():
        _end(folder, status, error)


def _keep_recorded_if_possible(folder: Path) -> None:
    with suppress(OSError):  # the files that tables are made from remain, so nothing is lost
        keep_recorded(folder)
