"""`fedperfit analyze`."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from configs.load import load_config
from simulations.cli.experiments import log
from simulations.cli.options import ConfigArguments, Json, Results, overrides_of, read_arguments, show
from simulations.display.console import console
from simulations.display.output import printable
from simulations.display.progress import Follower


def analyze(
    arguments: ConfigArguments = None,
    trained: Annotated[
        Path | None, typer.Option(help="A completed run of perfit on the same users, to compare with.")
    ] = None,
    named: Annotated[int, typer.Option(min=1, help="Users named as nearest to the mean, in the middle, farthest.")] = 3,
    texts: Annotated[
        bool,
        typer.Option("--texts", help="Write their last items to private/texts.txt, for your eyes only."),
    ] = False,
    others: Annotated[
        str, typer.Option("--with", help="Comma-separated earlier analyses, usually of other tasks, to compare with.")
    ] = "",
    name: Annotated[str, typer.Option(help="The analysis' folder under --results.")] = "analysis",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Measure how users' histories move hidden states (δ-vectors): ranks, the collective direction, controls.

    Every user sends its vectors once. Nothing is trained.

    Example: `fedperfit analyze configs/experiments/tiny.toml sites=[1,2]`
    """
    _, toml = read_arguments(arguments)
    load_config(toml, [*overrides_of(arguments), "method=delta"])
    from simulations.experiments.analysis.run import analyze as run_analysis
    from simulations.experiments.analysis.tables import analysis_tables
    from simulations.run.catalogue import find_run

    place = find_run(results, str(trained)).folder if trained else None
    names = [other.strip() for other in others.split(",") if other.strip()]
    words = overrides_of(arguments)
    with Follower(console(), as_json, (), time.time()) as follower:
        report = run_analysis(toml, words, name, results, place, named, texts, names, partial(log, as_json), follower)
    lines = [
        f"{title} users: {', '.join(map(printable, ids))}"
        for title, ids in (("nearest", report.nearest), ("middle", report.middle), ("farthest", report.farthest))
    ]
    where = f"{results / name} (analysis.json, and figures as PNG, SVG and PDF{'; private/texts.txt' if texts else ''})"
    show(as_json, report.model_dump(mode="json", by_alias=True), analysis_tables(report), *lines, where)
