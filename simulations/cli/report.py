"""`fedperfit report`: writes an HTML page about run records."""

from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.options import Results
from simulations.display.console import console
from simulations.display.tables import human_bytes


def report(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Run records, comparisons, cold starts, sweeps, audits."),
    ],
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: report.html in the first folder.")] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="A folder for the figures as PNG, SVG and PDF (needs the extra `figures` and Chromium)."),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write one HTML file that shows run records: quality, cost curves, users, bytes, partitions, predictions.

    Example: `fedperfit report demo --out demo.html`
    """
    from simulations.report.page import write_page
    from simulations.run.catalogue import find_folder

    paths = [find_folder(results, name) for name in folders]
    written = write_page(paths, out or paths[0] / "report.html", figures)
    console().print(
        f"{written} ({human_bytes(written.stat().st_size)}; opens in any browser, needs no network)", soft_wrap=True
    )
