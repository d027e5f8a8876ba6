"""`fedperfit bench`: hands its options to `python -m benchmarks` of a checkout; the package does not contain it."""

import os
import subprocess
import sys

import typer

from configs.errors import InputError
from configs.import_path import ROOT


def bench(context: typer.Context) -> None:
    """Measure local work against a plain baseline, splits of the cores, memory, and a whole simulation.

    Needs a checkout of the repository. `fedperfit bench --help` lists the options.
    """
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        raise InputError("bench: the benchmarks are not installed with the package; run it from a checkout")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # -P: a folder called benchmarks where the command was given is not ours.
    command = [sys.executable, "-P", "-m", "benchmarks", *context.args]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)
