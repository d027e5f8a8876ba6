"""`fedperfit project`: estimates the cost of far more users from measured runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from simulations.cli.options import Json, Results, show
from simulations.experiments.comparison.schema import SCHEMA, Comparison
from simulations.experiments.result_file import read_report
from simulations.run.catalogue import find_folder


def project(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Run records or comparisons, by name or folder.")],
    users: Annotated[float, typer.Option(help="Total number of users, such as 1e6.")] = 1e6,
    participation: Annotated[float, typer.Option(help="Share of the users in each round.")] = 0.001,
    rounds: Annotated[int, typer.Option(help="Rounds of stage 1.")] = 200,
    bytes_per_element: Annotated[
        float, typer.Option(help="Bytes of a number on the wire: 4 for fp32, 2 for bf16.")
    ] = 4,
    devices: Annotated[
        str,
        typer.Option(help="Name of a file in configs/devices/, for wall-clock time; default: no time is estimated."),
    ] = "",
    plot: Annotated[
        Path | None, typer.Option(help="A figure of the bytes by number of users: .png, .svg or .pdf.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Estimate what a method would cost a server with far more users than can be simulated, from measured runs.

    Runs of one method with different cohort sizes are fitted together.

    Example: `fedperfit project demo --users 1e6 --participation 0.001 --rounds 200 --bytes-per-element 2`
    """
    from simulations.projection.model import Scale
    from simulations.projection.model import project as project_runs
    from simulations.projection.views import draw_projection, projection_table

    if not math.isfinite(users) or users != int(users):
        raise InputError("expected a whole number", field="users", value=users)
    scale = Scale(int(users), participation, rounds, bytes_per_element, devices)
    paths = [find_folder(results, name) for name in runs]
    folders = _read_folders(paths)
    rows = project_runs(folders, scale)
    if plot:
        draw_projection(folders, scale, plot)
    methods_by_line = {
        line: [row["method"] for row in rows if line in row["assumptions"]]
        for row in rows
        for line in row["assumptions"]
    }
    lines = [
        f"- {line}" if len(methods) == len(rows) else f"- {', '.join(methods)}: {line}"
        for line, methods in methods_by_line.items()
    ]
    show(as_json, rows, [projection_table(rows, scale)], *lines, *([str(plot)] if plot else []))


def _read_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the given run records, and those of the given comparisons.

    Raises:
        InputError: A folder is neither, or a comparison cannot be read.
    """
    folders: list[Path] = []
    for path in paths:
        if (path / "compare.json").is_file():
            comparison = read_report(path / "compare.json", Comparison, SCHEMA, "compare")
            folders += [(path / run.folder).resolve() for run in comparison.runs]
        elif RunFolder(path).is_record:
            folders.append(path)
        else:
            raise InputError(f"{path}: neither a run record nor a comparison")
    return folders
