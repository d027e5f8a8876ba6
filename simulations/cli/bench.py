"""`fedperfit bench`: passes its options to `python -m benchmarks`, which only a checkout contains."""

import os
import subprocess
import sys

import typer

from configs.errors import InputError
from configs.import_path import ROOT


def bench(context: typer.Context) -> None:
    """Benchmark local work against a plain baseline, splits of the cores, memory, and a whole simulation.

    Needs a checkout of the repository. `fedperfit bench --help` lists the options.

    Example: `fedperfit bench --backbone tiny --sites 1 --users 0`
    """
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        raise InputError(
            "`fedperfit bench` needs a checkout of the repository; the installed package has no benchmarks"
        )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # -P: do not import a folder called benchmarks from the current folder.
    command = [sys.executable, "-P", "-m", "benchmarks", *context.args]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)
