"""Folders that commands write into: checks their names, and claims them."""

import os
import re
from pathlib import Path

from configs.errors import InputError
from configs.paths import expand


def check_name(name: str, field: str) -> None:
    """Refuse a name that is not a valid folder name on every system; `field` is the argument's name.

    Raises:
        InputError: The name is invalid.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise InputError("expected at most 200 letters, digits, '.', '_' and '-'", field=field, value=repr(name))


def claim_folder(results: Path | str, name: str) -> Path:
    """Return the folder `name` under `results`, checked to be writable but not created yet.

    Raises:
        InputError: The name is invalid, `results` cannot be created or written, or `name` is not a writable folder.
    """
    check_name(name, "name")
    folder = expand(results).resolve() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror}", field="results", value=results) from None
    if not os.access(folder.parent, os.W_OK):
        raise InputError("not writable", field="results", value=results)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder", field="name", value=name)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise InputError(f"{folder} is not writable", field="name", value=name)
    return folder


_EXPERIMENTS = {
    "compare.json": "a comparison",
    "cold_start.json": "a cold start",
    "sweep.json": "a sweep",
    "tune.csv": "a search",
    "analysis.json": "an analysis",
    "ability.json": "a test of ability",
    "audit.json": "an audit",
}
"""The result of each experiment: a folder holds one."""


def check_experiment(folder: Path, result_file: str) -> None:
    """Refuse a run record, or another experiment, as the folder of an experiment whose result is in `result_file`.

    Raises:
        InputError: It is one.
    """
    check_no_record(folder)
    for file, kind in _EXPERIMENTS.items():
        if file != result_file and (folder / file).is_file():
            raise InputError(f"{folder} is {kind}; choose another name")


def check_no_record(folder: Path) -> None:
    """Refuse a run record as the folder of something else.

    Raises:
        InputError: It is one.
    """
    if (folder / "run.json").is_file():
        raise InputError(f"{folder} is a run record; choose another name")
