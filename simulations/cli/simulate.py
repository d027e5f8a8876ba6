"""`fedperfit simulate`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from configs.load import import_folders
from simulations.commands.options import Json, Results, Track, Words, read_words, show
from simulations.progress import Follower, console
from simulations.tables import bytes_table, quality_table


def simulate(
    words: Words = None,
    name: Annotated[str | None, typer.Option(help="The run record's name; default: method, task, seed, time.")] = None,
    results: Results = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a record of that name.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Take up a run that did not complete.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Run one simulation and write its run record.

    Example: `fedperfit simulate configs/experiments/demo.toml users.collective=100 seed=1 --name first`
    """
    if resume is not None and (words or name or overwrite):
        raise InputError(f"--resume {resume}: the run goes on with its own config and name; leave the rest out")
    config, toml = read_words(words)
    import_path = import_folders(toml, [word for word in words or [] if "=" in word])
    from simulations import simulation

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
