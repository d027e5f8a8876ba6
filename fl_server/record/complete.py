"""Completes a run record: with the results of a finished run, or with what an interrupted run recorded."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from configs.errors import InputError
from fl_server.record.checkpoint import Checkpoint, load_checkpoint
from fl_server.record.ledger import count_faults, simulated_seconds, total_bytes
from fl_server.record.schema import RunRecord, read_run, write_run
from fl_server.record.stage_2 import method_figures
from fl_server.record.tables import clean, gather, keep_last_private
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import Statistics, metrics, pool, spread_over_users


def complete_record(
    folder: Path, checkpoint: Checkpoint, wall_s: float, per_user: Mapping[EvaluationPoint, Sequence[Statistics]]
) -> None:
    """Gather a record's tables and write its results; call it only when no client is still writing.

    Args:
        folder: The run record.
        checkpoint: The last checkpoint.
        wall_s: Seconds the run took.
        per_user: The target users' statistics before (`collective`) and after personalisation (`personalised`).
    """
    gather(folder)
    keep_last_private(folder / "private", checkpoint.last_turns)
    record = read_run(folder)
    record.metrics_base = checkpoint.metrics_base or {}
    record.baselines = checkpoint.baselines
    record.controls = checkpoint.controls
    record.privacy = checkpoint.privacy or record.privacy
    record.metrics_collective = metrics(pool(per_user[EvaluationPoint.COLLECTIVE]))
    record.metrics = metrics(pool(per_user[EvaluationPoint.PERSONALISED]))
    record.per_user = spread_over_users([metrics(statistics) for statistics in per_user[EvaluationPoint.PERSONALISED]])
    record.figures = method_figures(folder)
    _add_up(folder, record)
    record.shared_sha256 = hashlib.sha256((folder / "shared.safetensors").read_bytes()).hexdigest()
    record.wall_s = wall_s
    record.status, record.error = "completed", None
    write_run(folder, record)
    clean(folder)


def keep_recorded(folder: Path) -> None:
    """Gather what a run recorded before it was interrupted, and write its totals.

    Call it only when no process of the run is still writing. The parts of the tables stay for `--resume`.
    """
    gather(folder)
    if not (folder / "ledger.parquet").is_file():
        return  # interrupted before the tables were opened
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
