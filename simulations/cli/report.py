"""`fedperfit report`, `params` and `bench`: figures about runs, configs and this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configs.errors import InputError
from configs.load import import_folders, load_config
from simulations.commands.options import Json, Results, Words, read_words, show
from simulations.progress import console
from simulations.tables import human_bytes


def report(
    folders: Annotated[list[str], typer.Argument(metavar="RUN…", help="Run records, comparisons, cold starts.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: report.html in the first folder.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="A folder for each figure as PNG, SVG, PDF (extra: figures; Chromium).")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write one HTML file that shows run records: quality, cost curves, users, bytes, partitions, predictions.

    Example: `fedperfit report demo` or `fedperfit report results/comparison --out comparison.html`
    """
    from simulations.report.page import write_page
    from simulations.runs import find_folder

    paths = [find_folder(results, each) for each in folders]
    written = write_page(paths, out or paths[0] / "report.html", figures)
    console().print(
        f"{written} ({human_bytes(written.stat().st_size)}; opens in any browser, needs no network)", soft_wrap=True
    )


def params(
    words: Words = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's own tables, on Llama-2-7B.")] = False,
    as_json: Json = False,
) -> None:
    """Print how many parameters a config trains, sends and keeps; no weights are loaded."""
    from fl_clients import backbone as backbones
    from simulations.params import paper_parity, parameter_rows, parameter_table, parity_content, parity_table
    from simulations.prepare import build_method

    if paper:
        if words:
            raise InputError("--paper: computed from the shipped presets alone; leave the config and overrides out")
        parity = paper_parity()
        show(as_json, parity_content(parity), [parity_table(parity)])
        return
    config, toml = read_words(words)
    shape = backbones.read_shape(config.backbone, usable=False)
    method = build_method(config, shape, import_folders(toml, [word for word in words or [] if "=" in word]))
    rows = parameter_rows(method, shape)
    title = f"{method.name}, {config.task}, {config.backbone} ({shape.parameters:,} parameters)"
    show(as_json, rows, [parameter_table(rows, title)])


def bench(
    backbone: Annotated[str, typer.Option(help="A backbone the config takes.")] = "smollm2-135m",
    sites: Annotated[str, typer.Option(help="Decoder blocks of the shifts, comma-separated.")] = "14,15",
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each step and evaluation.")] = 3,
    users: Annotated[int, typer.Option(min=0, help="Users of the whole simulation, at least 10; 0: none.")] = 100,
    pyreft: Annotated[Path | None, typer.Option(help="A Python with pyreft, to measure its step too.")] = None,
    out: Annotated[Path, typer.Option(help="Where bench.json and bench.png go.")] = Path("results/bench"),
    as_json: Json = False,
) -> None:
    """Measure local work against a plain baseline, splits of the cores, memory, and a whole simulation."""
    from benchmarks.command import bench as run_bench  # which runs simulations itself
    from fl_clients import backbone as backbones
    from simulations.prepare import build_method

    try:
        blocks = [int(site) for site in sites.split(",")]
    except ValueError:
        raise InputError(f"--sites {sites}: expected block numbers such as 14,15") from None
    if 0 < users < 10:
        raise InputError(f"--users {users}: expected at least 10, or 0")
    shape = backbones.read_shape(backbone)
    build_method(load_config(None, [f"backbone={backbone}", f"sites={blocks}", "rank.shared=4"]), shape)
    # Its tables come as it goes.
    measured = run_bench(backbone, blocks, repeats, users, pyreft, out, Console(quiet=True) if as_json else console())
    if as_json:
        show(as_json, measured, [])
