"""Where a run's processes find a method that is not installed, and what may hide fedperfit's own packages from them."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.files import write_atomic

PACKAGES = ("fedperfit", "configs", "strategies", "fl_clients", "fl_server", "simulations")
"""fedperfit's top-level packages; their names are ordinary words."""
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds them: a checkout, or site-packages."""
IMPORT_PATH_FILE = ".import_path"


def write_import_path(run_dir: Path, folders: Sequence[str]) -> None:
    """Tell the processes of a run, on every machine, which folders to import its method from.

    `PYTHONPATH` would not do: a folder `configs` beside the experiment file would hide fedperfit's own.
    """
    write_atomic(run_dir / IMPORT_PATH_FILE, json.dumps(list(folders)))


def read_import_path(run_dir: Path) -> list[str]:
    """Return the folders that `write_import_path` wrote; none on a real device, whose methods are installed."""
    path = run_dir / IMPORT_PATH_FILE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def python_path_folders() -> list[str]:
    """Return the folders of `PYTHONPATH`; Python reads an empty entry as the current folder."""
    path = os.environ.get("PYTHONPATH", "")
    return [folder or str(Path.cwd()) for folder in path.split(os.pathsep)] if path else []


def find_intruder(folders: Iterable[str]) -> Path | None:
    """Return a file or package in `folders` that has the name of one of fedperfit's packages, but is another."""
    for folder in map(Path, folders):
        for name in PACKAGES:
            for path in (folder / f"{name}.py", folder / name / "__init__.py"):
                if path.is_file() and path.resolve().parent not in (ROOT, ROOT / name):
                    return path
    return None
