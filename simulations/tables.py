"""Run records as tables in the terminal."""

from rich.table import Table

from fl_server.records import RunRecord


def quality_table(record: RunRecord) -> Table:
    """Quality of the bare backbone, the collective shift and the personalised shift on the same target users."""
    table = Table(title=f"{record.name}: {record.task}, {record.users.target} target users, {record.backbone}")
    metrics = [key for key in record.metrics if key != "outside"]
    table.add_column("")
    for key in metrics:
        table.add_column(key, justify="right")
    stages = (
        ("bare backbone", record.metrics_base),
        ("collective shift", record.metrics_collective),
        ("personalised shift", record.metrics),
    )
    for title, values in stages:
        table.add_row(title, *(f"{values[key]:.3f}" for key in metrics))
    table.add_section()
    for title, spread in (
        ("  std over users", "std"),
        ("  worst tenth below", "p10"),
        ("  best tenth above", "p90"),
    ):
        table.add_row(title, *(f"{record.per_user[key][spread]:.3f}" for key in metrics))
    if record.oracle and "accuracy" in metrics:
        table.add_section()
        for title, key in (
            ("ceiling, knowing the user", "personalised"),
            ("ceiling, not knowing", "collective"),
        ):
            table.add_row(title, *(f"{record.oracle[key]:.3f}" if name == "accuracy" else "" for name in metrics))
    return table


def bytes_table(record: RunRecord) -> Table:
    """What crossed between server and clients, from the ledger."""
    table = Table(title="bytes on the wire (serialised messages)")
    for title in ("", "up", "down"):
        table.add_column(title, justify="right" if title else "left")
    counted = record.bytes
    table.add_row(
        "per client and round of stage 1",
        human_bytes(counted.per_client_round_up),
        human_bytes(counted.per_client_round_down),
    )
    table.add_row("in all", human_bytes(counted.up), human_bytes(counted.down))
    table.add_row("  of it tensors", human_bytes(counted.payload_up), human_bytes(counted.payload_down))
    table.caption = f"parameters: {record.params.shared:,} shared, {record.params.private:,} private per user"
    return table


def human_bytes(number: float) -> str:
    """Write a number of bytes with three or more digits: `1.23 MB` (powers of 1,000)."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.2f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"
