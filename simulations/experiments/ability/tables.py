"""Table of general ability."""

from rich.table import Table

from simulations.display.tables import new_table
from simulations.experiments.ability.schema import Ability, Difference


def ability_tables(report: Ability) -> list[Table]:
    """Tabulate each task: the bare backbone, and what changes with the collective part and with users' models."""
    table = new_table(title=f"{report.name}: what {report.run} still knows ({report.method})")
    for title in ("task", "items", "bare", "+ collective", "+ users' models"):
        table.add_column(title, justify="left" if title == "task" else "right")
    for row in report.tasks:
        changes = (_change(row.collective), _change(row.personalised))
        table.add_row(f"{row.task}, {row.metric}", str(row.items), f"{row.base:.3f}", *changes)
    table.caption = (
        f"differences to the bare backbone on the same items, 95 % intervals over items; {len(report.users)} users' "
        "models, their mean; fewer bits per byte are better"
    )
    return [table]


def _change(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    low, high = difference.interval
    return f"{difference.mean:+.3f} ({low:+.2f}, {high:+.2f})"
