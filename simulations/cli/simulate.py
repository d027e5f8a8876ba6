"""`fedperfit simulate`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from configs.load import import_folders
from simulations.cli.options import Json, Results, Track, Words, read_words, show
from simulations.display.console import console
from simulations.display.progress import Follower
from simulations.display.tables import bytes_table, quality_table


def simulate(
    arguments: Words = None,
    name: Annotated[str | None, typer.Option(help="The run record's name; default: method, task, seed, time.")] = None,
    results: Results = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing record of that name.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Resume a run that did not complete.")
    ] = None,
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
    config, toml = read_words(arguments)
    import_path = import_folders(toml, [word for word in arguments or [] if "=" in word])
    from simulations.run import simulate as simulation

    with Follower(console(), quiet or as_json, track or (), time.time()) as follower:
        if resume is not None:
            record = simulation.resume(resume, results, follower)
        else:
            record = simulation.simulate(config, name, results, overwrite, import_path, follower)
    folder = results.expanduser().resolve() / record.name
    if not quiet:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        where = f"run record: {folder} (plots in plots/), {record.wall_s:.0f} s"
        show(as_json, content, [quality_table(record), bytes_table(record)], where)
