"""`fedperfit ability`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.experiments import log
from simulations.cli.options import Json, Results, show


def ability(
    run: Annotated[str, typer.Argument(help="A completed run: a name listed by `fedperfit runs`, or a folder.")],
    users: Annotated[int, typer.Option(min=0, help="How many target users' models are asked.")] = 3,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated tasks of lm-eval; default: built-in questions and texts.")
    ] = "",
    include: Annotated[Path | None, typer.Option(help="A folder of your own tasks, in lm-eval's format.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of each task.")] = None,
    name: Annotated[str, typer.Option(help="The result's folder under --results; default: ability-RUN.")] = "",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Test whether a run's models still know what the backbone knew.

    Example: `fedperfit ability demo`
    """
    from simulations.experiments.ability.run import ability as run_ability
    from simulations.experiments.ability.tables import ability_tables
    from simulations.run.catalogue import find_run

    place = find_run(results, run).folder
    chosen = [task.strip() for task in tasks.split(",") if task.strip()]
    report = run_ability(place, name, results, users, chosen, include, limit, partial(log, as_json))
    show(
        as_json,
        report.model_dump(mode="json", by_alias=True),
        ability_tables(report),
        f"{results / report.name} (ability.json)",
    )
