"""`fedperfit project`: what far more users would cost, from measured runs."""

import math
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from simulations.cli.options import Json, Results, show
from simulations.run.catalogue import find_folder


def project(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Run records or comparisons, by name or folder.")],
    users: Annotated[float, typer.Option(help="Users in all; 1e6 may be written.")] = 1e6,
    participation: Annotated[float, typer.Option(help="Share of them in a round.")] = 0.001,
    rounds: Annotated[int, typer.Option(help="Rounds of stage 1.")] = 200,
    bytes_per_element: Annotated[float, typer.Option(help="Of a number on the wire: 4 fp32, 2 bf16.")] = 4,
    devices: Annotated[
        str, typer.Option(help="configs/devices/ by name, for wall-clock time; else none is told.")
    ] = "",
    plot: Annotated[
        Path | None, typer.Option(help="A picture of the bytes by number of users: .png, .svg or .pdf.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """What a method would cost a server with far more users than anybody simulates, from measured runs.

    Several runs of one method, with cohorts of several sizes, are fitted together.

    Example: `fedperfit project reference --users 1e6 --participation 0.001 --rounds 200 --bytes-per-element 2`
    """
    from simulations.projection.model import Scale, read_folders
    from simulations.projection.model import project as project_runs
    from simulations.projection.views import draw_projection, projection_table

    if not math.isfinite(users) or users != int(users):
        raise InputError("expected a whole number", field="users", value=users)
    scale = Scale(int(users), participation, rounds, bytes_per_element, devices)
    paths = [find_folder(results, each) for each in runs]
    folders = read_folders(paths)
    found = project_runs(folders, scale)
    if plot:
        draw_projection(folders, scale, plot)
    every = {
        line: [row["method"] for row in found if line in row["assumptions"]]
        for row in found
        for line in row["assumptions"]
    }
    lines = [
        f"- {line}" if len(methods) == len(found) else f"- {', '.join(methods)}: {line}"
        for line, methods in every.items()
    ]
    show(as_json, found, [projection_table(found, scale)], *lines, *([str(plot)] if plot else []))
