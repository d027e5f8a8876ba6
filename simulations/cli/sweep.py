"""`fedperfit sweep`."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from configs.load import load_config, read_toml
from configs.schema import RunConfig
from simulations.cli.experiments import log
from simulations.cli.options import Experiment, Json, Results, Seeds, read_list, read_numbers, show
from simulations.display.console import console
from simulations.display.progress import Follower


def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=a,b,c… [key=value]…", help="Keys with several values vary; the others are fixed."),
    ] = None,
    config: Experiment = None,
    methods: Annotated[str, typer.Option(help="Comma-separated, as in `compare`; default: the config's.")] = "",
    seeds: Seeds = "0",
    name: Annotated[str, typer.Option(help="The sweep's folder under --results.")] = "sweep",
    results: Results = Path("results"),
    yes: Annotated[bool, typer.Option("--yes", help="Also a grid of more than 200 runs.")] = False,
    as_json: Json = False,
) -> None:
    """Run every combination of some keys' values: a table, and a line or a heat map.

    Runs are ordinary records: completed ones are reused, interrupted ones resumed. A config file may name the values in
    a table `[sweep]`. A value with commas is in brackets: `sites=[2],[1,3]`.

    Example: `fedperfit sweep rank.shared=1,4 personal.epochs=1,2 --config configs/experiments/tiny.toml`
    """
    from simulations.experiments.sweep.spec import SweepSpec, read_axes

    axes, overrides = read_axes(arguments or [], config)
    spec = SweepSpec(axes, read_list(methods) or [_method(config, overrides)], read_numbers("seeds", seeds), yes)
    for point in spec.points():  # before seconds of imports
        load_config(config, [*overrides, *(f"{key}={value}" for key, value in point.items())])
    from simulations.experiments.sweep.run import sweep as run_sweep
    from simulations.experiments.sweep.tables import sweep_table

    overrides = [word for word in overrides if word.partition("=")[0].strip() != "method"]
    with Follower(console(), as_json, (), time.time()) as follower:
        report = run_sweep(spec, config, overrides, name, results, partial(log, as_json), follower)
    where = f"{results / name} (sweep.json{', sweep.png, sweep.svg, sweep.pdf' if len(axes) <= 2 else ''})"
    show(as_json, report.model_dump(mode="json", by_alias=True), [sweep_table(report)], where)


def _method(config: Path | None, overrides: list[str]) -> str:
    """Return the method as an override or the file names it: a loaded config has its class, and no preset with it."""
    given = [word.partition("=")[2] for word in overrides if word.partition("=")[0].strip() == "method"]
    named = read_toml(config).get("method") if config else None
    return str(given[-1] if given else named or RunConfig.model_fields["method"].default)
