"""The table of a sweep, and its cells as rows."""

import pandas as pd
from rich.table import Table

from simulations.display.output import printable
from simulations.display.tables import human_bytes, new_table, with_arrow
from simulations.experiments.comparison.tables import mean, noise, significance
from simulations.experiments.sweep.schema import Sweep, SweepCell


def sweep_table(sweep: Sweep) -> Table:
    """Tabulate every combination: quality before and after stage 2, bytes, numbers sent and kept."""
    about = ", ".join(part for part in (sweep.task, sweep.backbone) if part)
    table = new_table(title=f"{sweep.name}: {about}, seeds {', '.join(map(str, sweep.seeds))}")
    one_method = len({cell.method for cell in sweep.cells}) == 1
    for title in (*sweep.keys, *([] if one_method else ["method"])):
        table.add_column(title)
    private = ["ε"] if any(cell.epsilon is not None for cell in sweep.cells) else []
    tests = ["against best", "p"] if any(cell.against_best for cell in sweep.cells) else []
    for title in (with_arrow(sweep.metric), "before stage 2", *tests, *private, "bytes", "sent", "kept"):
        table.add_column(title, justify="right")
    for cell in sweep.cells:
        names = [*map(printable, cell.values), *([] if one_method else [cell.method])]
        numbers = (human_bytes(cell.bytes), f"{cell.shared:,}", f"{cell.private:,}")
        epsilon = ["–" if cell.epsilon is None else f"{cell.epsilon:.3g}"] if private else []
        tested = _tested(cell) if tests else []
        table.add_row(*names, mean(cell.quality), mean(cell.quality_collective), *tested, *epsilon, *numbers)
    bases = [cell.base.mean for cell in sweep.cells]
    low, high = (f"{value:.3f}" for value in (min(bases), max(bases)))
    bare = low if low == high else f"{low} to {high}"
    table.caption = (
        f"{'mean ± standard deviation over seeds; ' if len(sweep.seeds) > 1 else ''}bare backbone: {bare}; bytes: "
        "stage 1 and one download per target user; sent, kept: numbers of one client"
    )
    if tests:
        seeds = "" if len(sweep.seeds) > 1 else ", other trainings not covered"
        table.caption += (
            f"; p: over the same users, corrected for the table's tests{seeds}; ≈: within noise; the best "
            "was chosen by the same answers"
        )
    return table


def _tested(cell: SweepCell) -> list[str]:
    test = cell.against_best
    return ["–", "–"] if test is None else [f"{test.difference:+.3f}{noise(test)}", significance(test)]


def cells(sweep: Sweep) -> pd.DataFrame:
    """Return one row per cell: the keys' values as columns, `method`, `value`, `deviation`, `before`."""
    rows = [
        {
            **dict(zip(sweep.keys, cell.values, strict=True)),
            "method": cell.method,
            "value": cell.quality.mean,
            "deviation": cell.quality.std or 0.0,
            "before": cell.quality_collective.mean,
        }
        for cell in sweep.cells
    ]
    return pd.DataFrame(rows)
