"""Closes a run record: results of a finished run, or what a broken one had recorded."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from configs.errors import InputError
from fl_server.record.checkpoint import Checkpoint, load_checkpoint
from fl_server.record.ledger import count_faults, simulated_seconds, total_bytes
from fl_server.record.schema import RunRecord, read_run, write_run
from fl_server.record.tables import clean, gather, keep_last_private
from strategies.metrics.statistics import Statistics, metrics, pool, spread_over_users
from strategies.wire import EvaluationPoint


def complete_record(
    folder: Path, checkpoint: Checkpoint, wall_s: float, per_user: Mapping[EvaluationPoint, Sequence[Statistics]]
) -> None:
    """Gather a record's tables and write its results; to be called when no client writes any more.

    Args:
        folder: The run record.
        checkpoint: The last.
        wall_s: Seconds the run took.
        per_user: The target users' statistics before (`collective`) and after personalisation (`personalised`).
    """
    gather(folder)
    keep_last_private(folder / "private", checkpoint.last_turns)
    record = read_run(folder)
    record.metrics_base = checkpoint.metrics_base or {}
    record.metrics_collective = metrics(pool(per_user[EvaluationPoint.COLLECTIVE]))
    record.metrics = metrics(pool(per_user[EvaluationPoint.PERSONALISED]))
    record.per_user = spread_over_users([metrics(statistics) for statistics in per_user[EvaluationPoint.PERSONALISED]])
    _add_up(folder, record)
    record.shared_sha256 = hashlib.sha256((folder / "shared.safetensors").read_bytes()).hexdigest()
    record.wall_s = wall_s
    record.status, record.error = "completed", None
    write_run(folder, record)
    clean(folder)


def keep_recorded(folder: Path) -> None:
    """Make what a run recorded until it broke off readable, and enter what it adds up to.

    To be called when no process of the run writes any more. What the tables are made of stays for `--resume`.
    """
    gather(folder)
    if not (folder / "ledger.parquet").is_file():
        return  # it broke off before anything was opened
    record = read_run(folder)
    _add_up(folder, record)
    with suppress(InputError):
        record.wall_s = load_checkpoint(folder)[0].wall_s
    write_run(folder, record)


def _add_up(folder: Path, record: RunRecord) -> None:
    record.bytes = total_bytes(folder)
    for key, count in count_faults(folder).items():
        setattr(record, key, count)
    record.simulated_s = simulated_seconds(folder)
