"""`fedperfit simulate`."""

import json
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from configs.load import import_folders
from configs.paths import expand
from fl_server.record.schema import RunRecord
from simulations.cli.options import ConfigArguments, Json, Results, Track, overrides_of, read_arguments, show
from simulations.display.console import console
from simulations.display.progress import Follower
from simulations.display.tables import bytes_table, quality_table, sentence
from simulations.run.catalogue import find_run


def simulate(
    arguments: ConfigArguments = None,
    name: Annotated[str | None, typer.Option(help="The run record's name; default: method, task, seed, time.")] = None,
    results: Results = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing record of that name.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Resume a run that did not complete.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="With --resume: run the record's code from outside the current folder.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Run one simulation and write its run record.

    Example: `fedperfit simulate configs/experiments/demo.toml users.collective=100 seed=1 --name first`
    """
    if resume is not None and (arguments or name or overwrite):
        raise InputError(
            "a resumed run keeps its config and name; leave out everything else", field="resume", value=resume
        )
    config, toml = read_arguments(arguments)
    import_path = import_folders(toml, overrides_of(arguments))
    from simulations.run import simulate as simulation

    with Follower(console(), quiet or as_json, track or (), time.time()) as follower:
        if resume is not None:
            record, folder = _resume(resume, results, follower, trust)
        else:
            record = simulation.simulate(config, name, results, overwrite, import_path, follower)
            folder = expand(results).resolve() / record.name
    if not quiet:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        place = shlex.join([record.name, *([] if str(results) == "results" else ["--results", str(results)])])
        lines = (
            f"\n{sentence(record)}",
            f"run record: {folder} (plots in plots/), {record.wall_s:.0f} s",
            f"next: `fedperfit report {place}` draws it, `fedperfit chat {place}` asks the models",
        )
        show(as_json, content, [quality_table(record), bytes_table(record)], *lines)


def _resume(name: str, results: Path, follower: Follower, trust: bool) -> tuple[RunRecord, Path]:
    """Resume a run; return its record and folder. On the command line its name is the value of `--resume`."""
    from simulations.run.simulate import resume

    try:
        folder = find_run(expand(results), name).folder.resolve()
        return resume(name, results, follower, trust), folder
    except InputError as error:
        if error.field != "name":
            raise
        raise InputError(error.message, field="resume", value=name) from None
