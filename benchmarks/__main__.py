"""`python -m benchmarks`, or `fedperfit bench` in a checkout: local work against a plain baseline, and a whole run."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.command import bench as run_bench
from configs.errors import InputError
from configs.load import load_config
from fl_clients.backbone.load import read_shape
from simulations.cli.main import run_app
from simulations.display.console import console
from simulations.run.preflight import build_method

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("fedperfit bench")
def bench(
    backbone: Annotated[str, typer.Option(help="A value of the config's `backbone`.")] = "smollm2-135m",
    sites: Annotated[str, typer.Option(help="Decoder blocks of the shifts, comma-separated.")] = "14,15",
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each step and evaluation.")] = 3,
    users: Annotated[int, typer.Option(min=0, help="Users of the whole simulation, at least 10; 0 skips it.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of training for each split of the cores.")] = 10.0,
    pyreft: Annotated[
        Path | None, typer.Option(help="Python of an environment with pyreft, to measure its step too.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.png.")] = Path("results/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Benchmark local work against a plain baseline, splits of the cores, memory, and a whole simulation."""
    try:
        blocks = [int(site) for site in sites.split(",")]
    except ValueError:
        raise InputError("expected block numbers such as 14,15", field="sites", value=sites) from None
    if 0 < users < 10:
        raise InputError("expected at least 10, or 0", field="users", value=users)
    shape = read_shape(backbone)
    build_method(load_config(None, [f"backbone={backbone}", f"sites={blocks}", "rank.shared=4"]), shape)
    # It prints each table once measured.
    screen = Console(quiet=True) if as_json else console()
    measured = run_bench(backbone, blocks, repeats, users, seconds, pyreft, out, screen)
    if as_json:
        print(json.dumps(measured, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_app(app)
