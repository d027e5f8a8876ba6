"""`fedperfit audit`."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.experiments import log
from simulations.cli.options import Json, Results, show
from simulations.display.console import console
from simulations.display.progress import Follower


def audit(
    run: Annotated[str, typer.Argument(help="A completed run: a name listed by `fedperfit runs`, or a folder.")],
    shadows: Annotated[
        int, typer.Option(min=0, help="Shadow runs with half of the users each, for the strongest attack; 8 is usual.")
    ] = 0,
    name: Annotated[str, typer.Option(help="The audit's folder under --results; default: audit-RUN.")] = "",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Attack a completed run: who took part, what an update says of its sender, and what that proves of ε.

    Example: `fedperfit audit demo`
    """
    from simulations.experiments.audit.run import audit as run_audit
    from simulations.experiments.audit.tables import audit_tables
    from simulations.run.catalogue import find_run

    place = find_run(results, run).folder
    with Follower(console(), as_json, (), time.time()) as follower:
        report = run_audit(place, name, results, shadows, partial(log, as_json), follower)
    show(
        as_json,
        report.model_dump(mode="json", by_alias=True),
        audit_tables(report),
        f"{results / report.name} (audit.json)",
    )
