"""A projection as a table and as a figure."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from configs.errors import InputError
from simulations.display.style import styles
from simulations.display.tables import human_bytes, new_table
from simulations.projection.model import MOST_USERS, Scale, project

_FORMATS = (".png", ".svg", ".pdf")


def projection_table(rows: Sequence[dict[str, Any]], scale: Scale) -> Table:
    """Return the rows of `project` as a table."""
    table = new_table(title=f"{scale.users:,} users, {scale.cohort:,} in a round, {scale.rounds:,} rounds")
    titles = (
        "in, per round",
        "out, per round",
        "per client and round",
        "total",
        "server, s per round",
        "server memory",
        "hours",
    )
    for title in ("", *titles):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        seconds, error = row["server_round_s"], row["server_round_s_error"]
        memory, hours = row["server_memory_bytes"], row["hours"]
        table.add_row(
            row["method"],
            *(human_bytes(row[f"{key}_round_bytes"]) for key in ("ingress", "egress", "client")),
            human_bytes(row["total_bytes"]),
            "–" if seconds is None else f"{seconds:.2f}" + (f" ± {error:.2f}" if error is not None else ""),
            "–" if memory is None else human_bytes(memory),
            "–" if hours is None else f"{hours:.1f}",
        )
    table.caption = "extrapolated from measured runs, not measured; ±: standard error of the fit"
    return table


def draw_projection(folders: Sequence[Path], scale: Scale, out: Path) -> None:
    """Draw the bytes of all rounds against the number of users, up to ten times `scale.users`.

    Raises:
        InputError: The file has another suffix, or cannot be written.
    """
    if out.suffix not in _FORMATS:
        raise InputError(f"expected a name that ends in {', '.join(_FORMATS)}", field="plot", value=out)
    counts = sorted({min(MOST_USERS, max(1, int(scale.users * 10.0**power))) for power in range(-4, 2)})
    columns = [project(folders, replace(scale, users=count, devices="")) for count in counts]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    looks = styles(row["method"] for row in columns[0])
    for rows in zip(*columns, strict=True):
        method = rows[0]["method"]
        look = looks[method]
        totals = [row["total_bytes"] / 1e9 for row in rows]
        axes.plot(counts, totals, color=look.colour, marker=look.marker, label=method)
    axes.axvline(scale.users, color="#999999", linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("users")
    axes.set_ylabel(f"bytes of {scale.rounds} rounds, up and down (GB)")
    axes.set_title(f"extrapolated; share of the users in each round: {scale.participation:g}")
    axes.legend(fontsize=8)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", field="plot", value=out) from None
