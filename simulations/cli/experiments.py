"""`fedperfit compare`, `tune` and `cold-start`: experiments with many runs."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import InputError
from configs.load import CONFIGS, load_config
from simulations.cli.options import (
    Experiment,
    Json,
    Overrides,
    Results,
    Seeds,
    Track,
    overrides_of,
    read_list,
    read_numbers,
    show,
)
from simulations.display.console import console
from simulations.display.progress import Follower
from simulations.display.tables import new_table
from simulations.experiments.comparison.tables import comparison_tables
from simulations.run.catalogue import find_run
from simulations.run.folders import claim_folder


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="METHOD… [key=value]…", help="Methods or run records, and dotted overrides."),
    ],
    config: Experiment = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated; default: 0,1,2.")] = None,
    name: Annotated[str, typer.Option(help="The comparison's folder under --results.")] = "comparison",
    results: Results = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Rerun everything; reuse no runs.")] = False,
    control: Annotated[
        bool, typer.Option("--control", help="Also repeat every stage 2 with another target user's history.")
    ] = False,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Compare methods on the same users, seeds and evaluation: quality, bytes, cost curves.

    Reuses completed runs with the same config, resumes interrupted ones and runs the rest. Every other method is tested
    against the first.

    Example: `fedperfit compare perfit oppu lora-c --seeds 0,1 --name three users.collective=16`
    """
    methods = [argument for argument in arguments if "=" not in argument]
    overrides = overrides_of(arguments)
    records = [_record(method, results) for method in methods]
    for method in methods if not any(records) else ():
        load_config(config, [*overrides, f"method={method}"])  # before seconds of imports
    from simulations.experiments import compare as experiment
    from simulations.experiments.comparable import Run

    if any(records):
        if not all(records):
            method = methods[records.index(None)]
            raise InputError(
                f"{method} is not a run record under {results}; expected only run records, or only methods"
            )
        if config or overrides or seeds is not None or track or control:
            raise InputError(
                "run records are compared as they are; leave out --config, --seeds, --track, --control and overrides"
            )
        folder = claim_folder(results, name)
        if (folder / "run.json").is_file() or ((folder / "compare.json").is_file() and not overwrite):
            raise InputError(
                f"{folder} already holds results; choose another name, or --overwrite a comparison",
                field="name",
                value=name,
            )
        runs = [Run.read(record) for record in records if record]
        report = experiment.write_comparison(runs, runs[0].method, folder)
    else:
        given = read_numbers("seeds", "0,1,2" if seeds is None else seeds)
        with Follower(console(), as_json, track or (), time.time()) as follower:
            report = experiment.compare(
                methods, config, overrides, given, name, results, overwrite, partial(log, as_json), follower, control
            )
    where = f"{results / name} (compare.json, curves.parquet, curves and seconds as PNG, SVG and PDF)"
    show(as_json, report.model_dump(mode="json", by_alias=True), comparison_tables(report), where)


def tune(
    method: Annotated[str, typer.Argument(help="Name of a file in configs/methods/, or module:Class.")],
    arguments: Overrides = None,
    config: Experiment = None,
    seeds: Seeds = "0",
    held_out: Annotated[
        int, typer.Option(help="Number of collective users to evaluate on instead of the target users.")
    ] = 8,
    size: Annotated[
        int | None, typer.Option(min=1, help="Also search where the numbers go, if at most this many travel one way.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder under --results; default: tune-METHOD.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Search a method's learning rates on held-out collective users; the search is the same for every method.

    With --size, the shapes in the method's TOML are compared first, each as large as fits.

    Example: `fedperfit tune oppu --config configs/experiments/tune.toml`
    """
    from simulations.experiments.tune import tune as run_tune

    load_config(config, [*(arguments or []), f"method={method}"])  # before seconds of imports
    numbers, progress = read_numbers("seeds", seeds), partial(log, as_json)
    tuned = run_tune(method, config, arguments or [], numbers, held_out, size, name, results, progress)
    tables = []
    for frame, title in ((tuned.shapes, "shapes tried"), (tuned.table, "learning rates tried")):
        if len(frame):
            tables.append(new_table(*frame.columns, title=f"{method}: {title}"))
            for row in frame.itertuples(index=False):
                tables[-1].add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    content = {
        "rates": tuned.rates,
        "at_the_edge": tuned.at_the_edge,
        "shape": list(tuned.shape),
        "tried": json.loads(tuned.table.to_json(orient="records")),
    }
    rates = [
        f"{key} = {rate:g}" + (" (at the grid's edge)" if key in tuned.at_the_edge else "")
        for key, rate in tuned.rates.items()
    ]
    shape = [f"shape: {' '.join(tuned.shape)}"] if tuned.shape else []
    show(as_json, content, tables, *shape, *rates, f"{tuned.file}")


def cold_start(
    arguments: Overrides = None,
    config: Experiment = None,
    collective: Annotated[
        str, typer.Option(help="Numbers of collective users; each group contains the smaller ones.")
    ] = "10,100",
    methods: Annotated[
        str, typer.Option(help="The first method with the fewest users is tested against every method with the most.")
    ] = "perfit,oppu",
    tasks: Annotated[str, typer.Option(help="Comma-separated; default: the config's task.")] = "",
    seeds: Seeds = "0,1,2",
    history: Annotated[
        str, typer.Option(help="Numbers of history items that newcomers have, besides none and all.")
    ] = "",
    epochs: Annotated[str, typer.Option(help="Epochs that newcomers train, besides none and the config's.")] = "1",
    compositions: Annotated[int, typer.Option(min=0, help="Number of disjoint groups of the smallest size.")] = 0,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Train on each task and personalise on every other.")
    ] = False,
    name: Annotated[str, typer.Option(help="The folder under --results.")] = "cold-start",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Measure how many users must take part before a newcomer is served well, and the cost in bytes.

    Example: `fedperfit cold-start --config configs/experiments/tiny.toml --collective 4,12 --methods perfit --seeds 0`
    """
    # More than 50 lines, because every option is a parameter.
    for method in read_list(methods):
        load_config(config, [*(arguments or []), f"method={method}"])  # before seconds of imports
    from simulations.experiments.cold_start.experiment import cold_start as run_cold_start
    from simulations.experiments.cold_start.spec import ColdStartSpec
    from simulations.experiments.cold_start.tables import cold_start_tables

    spec = ColdStartSpec(
        collective=read_numbers("collective", collective),
        methods=read_list(methods),
        tasks=read_list(tasks),
        seeds=read_numbers("seeds", seeds),
        history=read_numbers("history", history, or_all=True),
        epochs=read_numbers("epochs", epochs),
        compositions=compositions,
        transfer=transfer,
    )
    with Follower(console(), as_json, (), time.time()) as follower:
        report = run_cold_start(spec, config, arguments or [], name, results, partial(log, as_json), follower)
    where = f"{results / name} (quality_by_number.csv, cold_start.csv, cold_start.json, plots)"
    show(as_json, report.model_dump(mode="json", by_alias=True), cold_start_tables(report), where)


def _record(name: str, results: Path) -> Path | None:
    """Return the run record called `name`: a folder, or a name in the results; methods' names take precedence.

    A folder without a run record is refused with the nearest name that has one.
    """
    if (CONFIGS / "methods" / f"{name}.toml").is_file() or name.endswith(".toml") or ":" in name:
        return None
    names_record = "/" in name or any(
        (place / "run.json").is_file() or place.is_dir() for place in (Path(name), results / name)
    )
    return find_run(results, name).folder if names_record else None


def log(as_json: bool, text: str) -> None:
    """Print progress; with `--json`, standard output must hold only JSON."""
    if not as_json:
        console().print(text)
