"""From what a finished run has left to a complete record."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl_server.checkpoint import Checkpoint
from fl_server.ledger import count_faults, simulated_seconds, total_bytes
from fl_server.records import read_run, write_run
from fl_server.tables import clean, gather, settle_private
from strategies.metrics import Statistics, metrics, pool, spread_over_users


def complete_record(
    folder: Path, checkpoint: Checkpoint, wall_s: float, per_user: Mapping[str, Sequence[Statistics]]
) -> None:
    """Gather a record's tables and write its results; to be called when no client writes any more.

    Args:
        folder: The run record.
        checkpoint: The last.
        wall_s: Seconds the run took.
        per_user: The target users' statistics before (`collective`) and after personalisation (`personalised`).
    """
    gather(folder)
    settle_private(folder / "private", checkpoint.last_turns)
    record = read_run(folder)
    record.metrics_base = checkpoint.metrics_base or {}
    record.metrics_collective = metrics(pool(per_user["collective"]))
    record.metrics = metrics(pool(per_user["personalised"]))
    record.per_user = spread_over_users([metrics(statistics) for statistics in per_user["personalised"]])
    record.bytes = total_bytes(folder)
    for key, count in count_faults(folder).items():
        setattr(record, key, count)
    record.shared_sha256 = hashlib.sha256((folder / "shared.safetensors").read_bytes()).hexdigest()
    record.simulated_s = simulated_seconds(folder)
    record.wall_s = wall_s
    record.status, record.error = "completed", None
    write_run(folder, record)
    clean(folder)
