"""The table of a run's target users."""

import pyarrow.compute as pc
from rich.table import Table

from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord
from simulations.display.output import printable
from simulations.display.tables import new_table, with_arrow


def users_table(folder: RunFolder, record: RunRecord) -> Table:
    """Tabulate the target users: number, id, items, questions, and their quality after each stage."""
    metric = record.main_metric
    clients = folder.clients(["user", "phase", "metrics"])
    personalised = clients.filter(pc.equal(clients["phase"], "personalize")).to_pylist()
    scores = {row["user"]: dict(row["metrics"]) for row in personalised}
    table = new_table(title=f"target users: {with_arrow(metric)}")
    table.add_column("number", justify="right")
    table.add_column("id", overflow="fold")
    for title in ("items", "questions", "after stage 1", "after stage 2"):
        table.add_column(title, justify="right")
    for row in folder.users().to_pylist()[record.users.collective :]:
        scores_of_user = scores.get(row["partition"], {})
        after = [scores_of_user.get(f"{point}.{metric}") for point in ("collective", "personalised")]
        shown = ["–" if value is None else f"{value:.3f}" for value in after]
        numbers = [f"{row[name]:,}" for name in ("history", "queries")]
        table.add_row(str(row["partition"]), printable(str(row["user_id"])), *numbers, *shown)
    table.caption = "an id is what `fedperfit export --user` and `fedperfit chat --user` take"
    return table
